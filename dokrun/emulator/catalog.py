"""The plans and their prices, as the service publishes them (November 2026).

https://manual.sakura.ad.jp/cloud/koukaryoku-container/about.html; a client asks `GET /unit_prices/`, since they change.
"""

from __future__ import annotations

from decimal import Decimal

from dokrun.api.models import Plan, UnitPrice

PLANS = (
    Plan(id="v100-32gb", name="NVIDIA V100 32GB", minimum_execution_seconds=1),
    Plan(id="h100-80gb", name="NVIDIA H100 80GB", minimum_execution_seconds=60),
    Plan(id="h100-8gpu-80gb", name="NVIDIA H100 80GB x 8 (beta)", minimum_execution_seconds=60),
)
PRICES = (
    UnitPrice(plan="v100-32gb", price=Decimal("0.016")),
    UnitPrice(plan="h100-80gb", price=Decimal("0.28")),
    UnitPrice(plan="h100-8gpu-80gb", price=Decimal("0.83")),
)
