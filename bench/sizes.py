"""The model sizes that figures speak of.

float32 weights of torchvision's ResNet-18, -34 and -152 with a 62-class head
(FEMNIST), the models of the LIFL paper's evaluation: 44.8, 85.3 and 233.1 MB
(MB = 10^6 bytes).
"""

from __future__ import annotations

BYTES = {"45mb": 44_800_000, "85mb": 85_300_000, "233mb": 233_100_000}
