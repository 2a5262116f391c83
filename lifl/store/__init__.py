"""The shared-memory object pool: reserve, fill, seal, take, release.

The store holds opaque extents and a table one can ask; only ``lifl.update``
knows what a model is.
"""

from lifl.store.layout import PoolGeometry, RoleRow, SlotEntry, SlotKind, SlotRef, SlotState, Work
from lifl.store.pool import Pool, Recovery, Seal
from lifl.store.table import PoolUsage

__all__ = [
    "Pool",
    "PoolGeometry",
    "PoolUsage",
    "Recovery",
    "RoleRow",
    "Seal",
    "SlotEntry",
    "SlotKind",
    "SlotRef",
    "SlotState",
    "Work",
]
