"""Who is who in the shop."""

from django.contrib.auth.models import User
from rest_framework.authentication import BaseAuthentication


class NumberAuthentication(BaseAuthentication):
    """Believes everybody who says a number."""

    def authenticate(self, request):
        """Read the number from a header."""
        number = request.headers.get("X-User")
        return (User(pk=int(number)), None) if number else None
