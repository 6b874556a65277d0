"""Serves the shop: serve.py wsgi|asgi. Writes its port once it listens."""

import os
import socket
import sys

os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"


def wsgi() -> None:
    """Serve with a thread for each connection."""
    from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
    from django.core.wsgi import get_wsgi_application

    server = ThreadedWSGIServer(("127.0.0.1", 0), WSGIRequestHandler)
    server.set_app(get_wsgi_application())
    print(f"port {server.server_port}", flush=True)
    server.serve_forever()


def asgi() -> None:
    """Serve with an event loop."""
    import uvicorn
    from django.core.asgi import get_asgi_application

    config = uvicorn.Config(
        get_asgi_application(),
        lifespan="off",
        access_log=False,
        proxy_headers=False,  # NUM_PROXIES says who is believed
    )
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"port {listener.getsockname()[1]}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])


{"wsgi": wsgi, "asgi": asgi}[sys.argv[1]]()
