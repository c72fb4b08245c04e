"""Make the deployment's developer, a superuser, and print the token of its API."""

from __future__ import annotations

import sys

import django

django.setup()

from django.contrib.auth.models import User  # noqa: E402  # Django's models come after its setup
from rest_framework.authtoken.models import Token  # noqa: E402

if __name__ == "__main__":
    user, _ = User.objects.get_or_create(username=sys.argv[1], is_superuser=True, is_staff=True)
    sys.stdout.write(Token.objects.get_or_create(user=user)[0].key)
