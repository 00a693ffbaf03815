"""aioquic: QUIC streams over UDP, with a certificate made for the run."""

import asyncio
import datetime
import pathlib
import ssl

from aioquic.asyncio import connect, serve
from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from inside import blob, check_loop

import uringloop


def make_certificate():
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pathlib.Path("certificate").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pathlib.Path("key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def echo(reader, writer):
    async def copy():
        check_loop()
        writer.write(await reader.read())
        writer.write_eof()

    tasks.append(asyncio.create_task(copy()))


tasks = []


async def talk(client, size):
    reader, writer = await client.create_stream()
    writer.write(blob(size))
    writer.write_eof()
    assert await reader.read() == blob(size)


async def main():
    check_loop()
    make_certificate()
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["echo"])
    configuration.load_cert_chain("certificate", "key")
    server = await serve("127.0.0.1", 0, configuration=configuration, stream_handler=echo)
    port = server._transport.get_extra_info("sockname")[1]
    settings = QuicConfiguration(is_client=True, alpn_protocols=["echo"], verify_mode=ssl.CERT_NONE)
    async with connect("127.0.0.1", port, configuration=settings) as client:
        await asyncio.gather(*(talk(client, size) for size in (1, 1_000, 70_000, 900_000)))
    await asyncio.gather(*tasks)
    server.close()


uringloop.run(main())
