from typing import Any

Stream: Any
Datagram: Any
Tls: Any

def bound(stock: Any, name: str, transport: object) -> Any: ...
