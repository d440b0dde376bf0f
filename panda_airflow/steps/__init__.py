"""What operators and sensors share."""

from __future__ import annotations
