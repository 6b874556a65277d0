"""Throttles for Django REST framework whose limits are kept by Weir.

Copy this file into a project; it needs nothing but Python 3.8, Django 3.2 and
Django REST framework. Settings; those of WEIR are the defaults::

    MIDDLEWARE = ["weir_throttle.rate_limit_headers", ...]
    REST_FRAMEWORK = {
        "DEFAULT_THROTTLE_CLASSES": ["weir_throttle.WeirThrottle"],
        "NUM_PROXIES": 1,  # that append to X-Forwarded-For; not set: none
    }
    WEIR = {
        "URL": "http://127.0.0.1:8080",  # of Weir's HTTP edge
        "TENANT": "default",
        "TOKEN": "",  # a bearer token, if Weir asks for one
        "TIMEOUT": 0.1,  # seconds; more than the policy's, to hear its on_error
        "EXEMPT_METHODS": [],  # neither limited nor recorded
    }

Limits are in Weir's policy and not in settings, so they change while traffic
flows. A rule sees ``user`` (the primary key of an authenticated user), ``ip``,
``method``, ``host``, ``path``, ``route`` (as ``/users/{pk}/``) and
``attrs.scopes``, the scopes of the view's throttles. ``policy()`` writes the rates
in DEFAULT_THROTTLE_RATES as a policy::

    python manage.py shell -c "import weir_throttle; print(weir_throttle.policy())"

A request is one check, however many of these throttles its view lists, and all
rules that match it are decided together. A request that Weir does not answer in
time passes.
"""

from __future__ import annotations

import functools
import http.client
import inspect
import ipaddress
import json
import logging
import os
import re
import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass, fields
from email.message import Message
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Collection,
    Deque,
    Dict,
    List,
    Optional,
    Tuple,
)
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.admindocs.views import simplify_regex
from django.core.exceptions import DisallowedHost, ImproperlyConfigured
from django.core.signals import setting_changed
from django.http import HttpRequest, HttpResponse
from django.http.request import split_domain_port
from django.utils.decorators import sync_and_async_middleware
from rest_framework.settings import api_settings
from rest_framework.throttling import BaseThrottle

if TYPE_CHECKING:  # views import the throttles that are the default
    from rest_framework.request import Request
    from rest_framework.views import APIView

logger = logging.getLogger("weir_throttle")

MAX_IDLE = 32  # connections that are kept; more may be in use
MAX_ANSWER = 64 << 10  # bytes
MAX_NAME = 1 << 10  # bytes of a user, a method or a host that Weir takes
MAX_PATH = 8 << 10  # bytes of a path or a route
OUTAGE_AFTER = 5  # failures in a row, from which on Weir is asked once in PROBE_EVERY
PROBE_EVERY = 1.0  # seconds
LOG_EVERY = 60.0  # seconds

# What tells a client of its limits. Retry-After is sent by Django REST framework
# too, but not for a denial without an instant at which the request would pass.
HEADERS = (
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "RateLimit-Policy",
    "RateLimit",
    "Retry-After",
)


class WeirThrottle(BaseThrottle):
    """Asks Weir about every request.

    A subclass with a ``scope`` lets rules tell its views from others.
    """

    scope: Optional[str] = None
    decision: Optional[Decision] = None

    def allow_request(self, request: Request, view: APIView) -> bool:
        """Tell whether the request passes."""
        if request.method in _weir.config.exempt_methods:
            return True
        if not self.applies(request, view):
            return True
        plain = request._request  # the one that middleware sees
        if not hasattr(plain, "weir_decision"):
            plain.weir_decision = _weir.decide(self.get_event(request, view))
        self.decision = plain.weir_decision
        return self.decision is None or self.decision.allowed

    def wait(self) -> Optional[float]:
        """Return the seconds after which the request would pass, if it ever does."""
        return self.decision.wait if self.decision else None

    def applies(self, request: Request, view: APIView) -> bool:
        """Tell whether this throttle has a say in the request."""
        return True

    def get_scope(self, view: APIView) -> Optional[str]:
        """Return the scope of this throttle in a view."""
        return self.scope

    def get_ident(self, request: Request) -> Optional[str]:
        """Return the address of the client, if it is known.

        NUM_PROXIES proxies are believed who has called them. BaseThrottle counts
        by all of X-Forwarded-For if NUM_PROXIES is not set, so that a client that
        changes it is somebody else each time; here it is then not looked at.
        """
        client = _address(request.META.get("REMOTE_ADDR") or "")
        hops = max(api_settings.NUM_PROXIES or 0, 0)
        forwarded = request.META.get("HTTP_X_FORWARDED_FOR")
        if hops and forwarded:
            for text in reversed(forwarded.rsplit(",", hops)[-hops:]):
                address = _address(text)
                if address is None:
                    break  # the proxy that says so is the last that is known
                client = address
        return client

    def get_event(self, request: Request, view: APIView) -> Dict[str, Any]:
        """Return what Weir is told of the request: a request event.

        Override it to say more, such as a ``cost`` or an ``api_key``.
        """
        event: Dict[str, Any] = {
            # With an id it is charged once, also if it is sent again.
            "id": uuid.uuid4().hex,
            "tenant": _weir.config.tenant,
            "method": _text(request.method, MAX_NAME),
            "host": _text(_host(request), MAX_NAME),
            "path": _text(request.path, MAX_PATH),
        }
        if _authenticated(request):
            event["user"] = _text(str(request.user.pk), MAX_NAME)
        address = self.get_ident(request)
        if address:
            event["ip"] = address
        if request.resolver_match:
            event["route"] = _route(request.resolver_match.route)
        scopes = _scopes(request, view)
        if scopes:
            event["attrs"] = {"scopes": scopes}
        return event


class WeirAnonThrottle(WeirThrottle):
    """Asks Weir about requests of nobody who is known, as AnonRateThrottle does."""

    scope = "anon"

    def applies(self, request: Request, view: APIView) -> bool:
        """Tell whether the user is unknown."""
        return not _authenticated(request)


class WeirUserThrottle(WeirThrottle):
    """Asks Weir about every request, as UserRateThrottle does."""

    scope = "user"


class WeirScopedThrottle(WeirThrottle):
    """Asks Weir about views with a throttle_scope, as ScopedRateThrottle does."""

    def applies(self, request: Request, view: APIView) -> bool:
        """Tell whether the view has a scope."""
        return bool(self.get_scope(view))

    def get_scope(self, view: APIView) -> Optional[str]:
        """Return the view's throttle_scope."""
        return getattr(view, "throttle_scope", None)


@sync_and_async_middleware
def rate_limit_headers(
    get_response: Callable[[HttpRequest], Any]
) -> Callable[..., Any]:
    """Middleware that tells clients of their limits as Weir words them."""
    if inspect.iscoroutinefunction(get_response):

        async def later(request: HttpRequest) -> HttpResponse:
            return _tell(request, await get_response(request))

        return later

    def now(request: HttpRequest) -> HttpResponse:
        return _tell(request, get_response(request))

    return now


def _tell(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    decision = getattr(request, "weir_decision", None)
    if decision is not None:
        for name, value in decision.headers.items():
            response.setdefault(name, value)
    return response


def policy() -> str:
    """Return a policy for Weir with the rates in DEFAULT_THROTTLE_RATES.

    Each scope that has a rate becomes a rule of its name.
    """
    units = {"s": "s", "m": "min", "h": "hour", "d": "day"}  # by first letter, as there
    lines = ["version: 1", "tenants:", f"  {_weir.config.tenant}:", "    rules:"]
    for scope, rate in api_settings.DEFAULT_THROTTLE_RATES.items():
        if rate is None:
            continue
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", scope):
            raise ImproperlyConfigured(
                f"the scope {scope!r} cannot be the name of a rule: "
                "want 1 to 64 of A-Z a-z 0-9 _ . -"
            )
        count, period = rate.split("/")
        lines += [
            f"      - name: {scope}",
            f"        when: '\"{scope}\" in request.attrs.scopes'",
            "        key: [identity]",
            f"        limit: {int(count)}/{units[period[0]]}",
        ]
    return "\n".join(lines)


@dataclass(frozen=True)
class Config:
    """The settings under WEIR, where their names are in capitals."""

    url: str = "http://127.0.0.1:8080"
    tenant: str = "default"
    token: str = ""
    timeout: float = 0.1
    exempt_methods: Collection[str] = ()

    @classmethod
    def from_settings(cls) -> Config:
        """Read the settings. What is wrong with them is told when a project starts."""
        given = getattr(settings, "WEIR", {})
        known = [field.name.upper() for field in fields(cls)]
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise ImproperlyConfigured(
                f"WEIR: want {', '.join(known)}, found {unknown}"
            )
        config = cls(**{name.lower(): value for name, value in given.items()})
        url = urlsplit(config.url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ImproperlyConfigured(
                f"WEIR: URL: want http://host:port, found {config.url!r}"
            )
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", config.tenant):
            raise ImproperlyConfigured(
                "WEIR: TENANT: want 1 to 64 of A-Z a-z 0-9 _ -, "
                f"found {config.tenant!r}"
            )
        if not re.fullmatch(r"[!-~]*", config.token):
            raise ImproperlyConfigured(
                "WEIR: TOKEN: want printable ASCII without spaces or line breaks"
            )
        if not config.timeout > 0:
            raise ImproperlyConfigured(
                f"WEIR: TIMEOUT: want seconds, found {config.timeout!r}"
            )
        return config


@dataclass(frozen=True)
class Decision:
    """What Weir says of a request."""

    allowed: bool
    wait: Optional[float]  # seconds; None if it passes, or never will
    headers: Dict[str, str]


class Client:
    """Asks Weir over HTTP connections that all threads share.

    A connection serves one thread at a time. They are not the threads' own: an
    ASGI server has a new thread for each request.
    """

    def __init__(self, config: Config) -> None:
        """Make a client; it connects when it is asked."""
        self.config = config
        url = urlsplit(config.url)
        self._address = (url.hostname or "", url.port)
        self._connection = (
            http.client.HTTPSConnection
            if url.scheme == "https"
            else http.client.HTTPConnection
        )
        self._path = url.path.rstrip("/") + "/v1/check"
        self._headers = {"Content-Type": "application/json"}
        if config.token:
            self._headers["Authorization"] = f"Bearer {config.token}"
        self._idle: Deque[http.client.HTTPConnection] = deque()
        self._lock = threading.Lock()  # guards the rest
        self._failures = 0  # in a row
        self._probe_at = 0.0  # on the monotonic clock, as is the next
        self._log_at = 0.0
        self._undecided = 0  # since the last line in the log

    def decide(self, event: Dict[str, Any]) -> Optional[Decision]:
        """Return the decision about a request, or None if there is none in time."""
        body = json.dumps(event).encode()
        if not self._may_ask():
            self._let_pass("Weir does not answer")
            return None
        try:
            status, headers, text = self._exchange(body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            with self._lock:
                self._failures += 1
                self._probe_at = time.monotonic() + PROBE_EVERY
            self._let_pass(repr(error))
            return None
        # Whatever the answer is, Weir is there. A client whose request it would
        # not take must not have others pass.
        if self._failures:
            with self._lock:
                self._failures = 0
        try:
            answer = json.loads(text)
            allowed = {"allow": True, "deny": False}[answer["verdict"]]
            wait_ms = answer.get("retry_after_ms")
            wait = wait_ms / 1000 if wait_ms else None
        except (ValueError, TypeError, KeyError):
            self._let_pass(f"HTTP {status}: {text!r:.300}")
            return None
        told = {name: headers[name] for name in HEADERS if name in headers}
        return Decision(allowed, wait, told)

    def _may_ask(self) -> bool:
        """Spare requests the wait while Weir is away, but one in PROBE_EVERY."""
        if self._failures < OUTAGE_AFTER:
            return True
        with self._lock:
            now = time.monotonic()
            if now < self._probe_at:
                return False
            self._probe_at = now + PROBE_EVERY
            return True

    def _let_pass(self, why: str) -> None:
        """Count a request without a decision, and log that once in LOG_EVERY."""
        with self._lock:
            self._undecided += 1
            now = time.monotonic()
            if now < self._log_at:
                return
            count, self._undecided = self._undecided, 0
            self._log_at = now + LOG_EVERY
        logger.warning("requests let pass without a decision: %d; %s", count, why)

    def _exchange(self, body: bytes) -> Tuple[int, Message, bytes]:
        """Ask over a connection that is open, else over a new one."""
        deadline = time.monotonic() + self.config.timeout
        try:
            kept = self._idle.pop()
        except IndexError:
            pass
        else:
            try:
                return self._post(kept, body, deadline)
            except (ConnectionError, http.client.BadStatusLine):
                # Closed meanwhile, and so are those that lay idle for longer.
                self._close_idle()
        host, port = self._address
        fresh = self._connection(host, port, timeout=_left(deadline))
        return self._post(fresh, body, deadline)

    def _post(
        self, connection: http.client.HTTPConnection, body: bytes, deadline: float
    ) -> Tuple[int, Message, bytes]:
        try:
            connection.request("POST", self._path, body, self._headers)
            connection.sock.settimeout(_left(deadline))
            response = connection.getresponse()
            text = response.read(MAX_ANSWER)
        except BaseException:  # also what ends a worker in between
            connection.close()
            raise
        if response.isclosed() and connection.sock and len(self._idle) < MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.close()
        return response.status, response.headers, text

    def _close_idle(self) -> None:
        while True:
            try:
                self._idle.pop().close()
            except IndexError:
                return


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def _authenticated(request: Request) -> bool:
    return bool(request.user and request.user.is_authenticated)


def _scopes(request: Request, view: APIView) -> List[str]:
    """Return the scopes of all throttles of a view that apply to a request."""
    scopes = []
    for throttle in view.get_throttles():
        if isinstance(throttle, WeirThrottle) and throttle.applies(request, view):
            scope = throttle.get_scope(view)
            if scope and scope not in scopes:
                scopes.append(scope)
    return scopes


def _host(request: Request) -> str:
    """Return the host without what may be written in several ways."""
    try:
        host = request.get_host()
    except DisallowedHost:  # for the project to refuse
        host = request.META.get("HTTP_HOST", "")
    return (split_domain_port(host)[0] or host).strip("[]")


def _address(text: str) -> Optional[str]:
    """Read an address, perhaps in brackets or with a port."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return str(getattr(address, "ipv4_mapped", None) or address)


def _text(value: str, most: int) -> str:
    """Make a text one that Weir takes, or a client could have its request refused."""
    plain = value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace")
    return plain[:most].decode(errors="ignore")


@functools.lru_cache(maxsize=1024)
def _route(pattern: str) -> str:
    """Write the pattern of a URL as schemas of Django REST framework do."""
    path = re.sub(r"<(?:[^>:]+:)?(\w+)>", r"{\1}", simplify_regex(pattern))
    return _text(path, MAX_PATH)


def _open(**kwargs: Any) -> None:
    """Make the client anew: for other settings, and in a process that is forked."""
    global _weir
    if kwargs.get("setting", "WEIR") == "WEIR":
        _weir = Client(Config.from_settings())


_weir: Client
_open()
setting_changed.connect(_open)
if hasattr(os, "register_at_fork"):  # two processes must not share a connection
    os.register_at_fork(after_in_child=_open)
