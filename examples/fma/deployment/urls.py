"""Where the deployment's API is served: under /api/v1/, as fma-connect expects it."""

from __future__ import annotations

from django.urls import include, path

urlpatterns = [path("api/", include("fma_django_api.urls"))]
