"""Django's ASGI application in one file, with asynchronous views."""

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from inside import CHUNKS, check_loop

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="not secret",
    DATA_UPLOAD_MAX_MEMORY_SIZE=2_000_000,
)
django.setup()


async def show_loop(request):
    return JsonResponse(check_loop())


async def echo(request):
    return HttpResponse(request.body)


async def stream(request):
    async def pieces():
        for chunk in CHUNKS:
            yield chunk

    return StreamingHttpResponse(pieces())


urlpatterns = [path("loop", show_loop), path("echo", echo), path("stream", stream)]
app = get_asgi_application()
