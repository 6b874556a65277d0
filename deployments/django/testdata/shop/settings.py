"""Settings of a shop whose API is limited by Weir."""

import os

SECRET_KEY = "known to everybody"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "shop.urls"
USE_TZ = True
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "rest_framework",
]
MIDDLEWARE = [
    "weir_throttle.rate_limit_headers",
    "django.middleware.common.CommonMiddleware",
]
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["shop.authentication.NumberAuthentication"],
    "DEFAULT_THROTTLE_CLASSES": ["weir_throttle.WeirThrottle"],
    "DEFAULT_THROTTLE_RATES": {"anon": "4/day", "uploads": "3/minute"},
}
if "SHOP_PROXIES" in os.environ:
    REST_FRAMEWORK["NUM_PROXIES"] = int(os.environ["SHOP_PROXIES"])
WEIR = {
    "URL": os.environ["SHOP_WEIR"],
    "TENANT": "shop",
    "TOKEN": "a-token",
    "TIMEOUT": float(os.environ["SHOP_TIMEOUT"]),
    "EXEMPT_METHODS": ["DELETE"],
}
