"""The API of the shop."""

import weir_throttle
from django.urls import path, re_path
from rest_framework.response import Response
from rest_framework.views import APIView


class Orders(APIView):
    """Orders, throttled by default."""

    def get(self, request, **kwargs):
        """Answer anything."""
        return Response({"orders": []})

    post = delete = get


class Uploads(Orders):
    """Uploads, whose throttles are two, and each has a scope."""

    throttle_classes = [
        weir_throttle.WeirAnonThrottle,
        weir_throttle.WeirScopedThrottle,
    ]
    throttle_scope = "uploads"


class Bulk(Orders):
    """Nothing that a throttle with a scope would throttle."""

    throttle_classes = [weir_throttle.WeirScopedThrottle]


urlpatterns = [
    path("orders/", Orders.as_view()),
    path("orders/<int:pk>/", Orders.as_view()),
    re_path(r"^lines/(?P<pk>[^/.]+)/$", Orders.as_view()),
    path("uploads/", Uploads.as_view()),
    path("bulk/", Bulk.as_view()),
]
