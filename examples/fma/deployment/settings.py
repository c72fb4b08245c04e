"""A small FMA deployment: fma-django's models and API on SQLite or PostgreSQL, as its own service sets them up.

Its files lie in the home folder, or in the bucket that FMA_MEDIA names, by django-storages.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

_HOME = Path(os.environ["FMA_HOME"])

SECRET_KEY = "for an example on the loopback interface"  # noqa: S105  # it guards nothing
ALLOWED_HOSTS = ["127.0.0.1"]
USE_TZ = True
TIME_ZONE = "UTC"
ROOT_URLCONF = "examples.fma.deployment.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django_q",
    "django_filters",
    "mptt",
    "rest_framework",
    "rest_framework.authtoken",
    "fma_django",
    "fma_django_api",
]

# As Django wants it: {"ENGINE": …, "NAME": …}. By default a SQLite file in the home folder.
DATABASES = {
    "default": json.loads(os.environ.get("FMA_DATABASE", "null"))
    or {"ENGINE": "django.db.backends.sqlite3", "NAME": str(_HOME / "fma.db"), "OPTIONS": {"timeout": 30}}
}

MEDIA_ROOT = str(_HOME / "media")
MEDIA_URL = "/media/"

if "FMA_MEDIA" in os.environ:  # s3://bucket/location
    _bucket, _, _location = os.environ["FMA_MEDIA"].removeprefix("s3://").partition("/")
    _options = {"bucket_name": _bucket, "location": _location, "endpoint_url": os.environ.get("AWS_ENDPOINT")}
    STORAGES = {"default": {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": _options}}

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "fma_django.authenticators.ClientAuthentication",
        "rest_framework.authentication.TokenAuthentication",
    ],
    "DEFAULT_FILTER_BACKENDS": [
        "django_filters.rest_framework.DjangoFilterBackend",
        "rest_framework.filters.OrderingFilter",
    ],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
}

IS_LOCAL_DEPLOYMENT = True
TAGS: dict[str, str] = {}
Q_CLUSTER = {"name": "fma", "orm": "default", "workers": 1}

# FMA's own aggregation, which the hub takes the place of: FMA_SETTINGS_MODULE names this file as well.
INSTALLED_PACKAGES = ["fma_django_connectors"]
AGGREGATOR_SETTINGS = {
    "aggregator_connector_type": "DjangoAggConnector",
    "metadata_connector": {"type": "DjangoMetadataConnector"},
}
