"""Where the rows of an index lie: which device holds which, and how many rows of padding make the parts equal."""

import dataclasses
import math

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

# Every part has a multiple of this many rows. Whole tiles of a matrix product keep a row's score the same wherever the
# row lies, so that equal rows have equal scores on any number of devices.
TILE = 128


@dataclasses.dataclass(frozen=True)
class Layout:
    """`rows` rows split over the mesh axes `axes`, in order; no mesh: all on JAX's default device."""

    rows: int
    mesh: Mesh | None = None
    axes: tuple[str, ...] = ()

    @property
    def shards(self) -> int:
        return math.prod(self.mesh.shape[axis] for axis in self.axes) if self.mesh else 1

    @property
    def shard_rows(self) -> int:
        """Rows of each part, padding included."""
        return -(-self.rows // (self.shards * TILE)) * TILE

    @property
    def stored_rows(self) -> int:
        return self.shards * self.shard_rows

    @property
    def spec(self) -> PartitionSpec:
        return PartitionSpec(self.axes)

    @property
    def sharding(self) -> Sharding | None:
        """Of arrays whose first axis is the rows; None: uncommitted on the default device."""
        return NamedSharding(self.mesh, self.spec) if self.mesh else None

    @property
    def platform(self) -> str:
        return self.mesh.devices.flat[0].platform if self.mesh else jax.default_backend()


def make_layout(rows: int, mesh: Mesh | None, axes: str | tuple[str, ...] | None) -> Layout:
    """Raises ValueError for axes that the mesh does not have, and for numbers of rows that int32 ids cannot name."""
    if not 1 <= rows < 2**31:
        raise ValueError(f"an index has between 1 and {2**31 - 1} rows (its ids are int32), got {rows}")
    if mesh is None:
        if axes is not None:
            raise ValueError(f"axes={axes!r} are axes of a mesh, and there is no mesh; pass mesh=")
        return Layout(rows)
    axes = tuple(mesh.axis_names) if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)
    if unknown := [axis for axis in axes if axis not in mesh.shape]:
        raise ValueError(f"no axis {unknown[0]!r} in the mesh, which has {dict(mesh.shape)}")
    if not axes or len(set(axes)) < len(axes):
        raise ValueError(f"axes names the mesh axes that rows are split over, each once; got {axes}")
    return Layout(rows, mesh, axes)
