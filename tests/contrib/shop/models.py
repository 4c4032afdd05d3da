"""What the tasks write."""

from __future__ import annotations

from django.db import models


class User(models.Model):
    name = models.TextField()

    class Meta:
        db_table = "users"
