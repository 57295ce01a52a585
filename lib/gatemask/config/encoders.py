"""The encoders that a YAML may name: plain data, so that a missing file is reported before anything is built."""

from __future__ import annotations

from gatemask.config.encoder_info import EncoderInfo
from gatemask.config.keras_encoders import APPLICATIONS
from gatemask.config.packaged_encoders import PACKAGED

ENCODERS: dict[str, EncoderInfo] = {**PACKAGED, **APPLICATIONS}
