"""Key-value caches whose rows can leave and enter while a batch is being sampled.

Two kinds with one interface:

- `BufferCache`: every layer keeps all past keys. Keys and values live in a buffer that is written in place (the cache
  of transformers copies itself whole at every step); a finished row's place is taken by a row from the end, so that a
  leaving row costs one row's copy; new rows can be written in beside running ones.
- `GenericCache`: whatever transformers makes for the model (sliding windows, recurrent or hybrid layers), rows picked
  by index. Rows can leave, not enter.

Shapes: B rows, H key-value heads, C columns (token positions, left-aligned padding), D head size.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, LinearAttentionCacheLayerMixin

INITIAL_COLUMNS = 256
"""New tokens that a fresh buffer has room for; it grows by half when they are used up."""


class BufferLayer(CacheLayerMixin):
    """One layer's keys and values [B, H, C, D]; which part is in use is the cache's business."""

    is_sliding = False

    def __init__(self, cache: BufferCache) -> None:
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, columns = self.cache.capacity_rows, self.cache.capacity_columns
        # Autocast leaves keys in float32 (rotations are), and would lower all of them again at each step.
        device_type = key_states.device.type
        lowered = torch.is_autocast_enabled(device_type)
        dtype = torch.get_autocast_dtype(device_type) if lowered else key_states.dtype
        self.keys = key_states.new_empty((rows, key_states.shape[1], columns, key_states.shape[3]), dtype=dtype)
        self.values = value_states.new_empty((rows, value_states.shape[1], columns, value_states.shape[3]), dtype=dtype)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        keys, values = self._buffers()
        rows, first, end = self.cache.rows, self.cache.first, self.cache.end
        new_end = end + key_states.shape[2]
        keys[:rows, :, end:new_end] = key_states
        values[:rows, :, end:new_end] = value_states
        return keys[:rows, :, first:new_end], values[:rows, :, first:new_end]

    def write(self, row: int, source: DynamicLayer, index: Tensor, width: int) -> None:
        """Copies rows `index` of a prefilled layer into rows `row`..., ending at the current column."""
        assert source.keys is not None
        assert source.values is not None
        if not self.is_initialized:
            self.lazy_initialization(source.keys, source.values)
        keys, values = self._buffers()
        start = self.cache.end - width
        for buffer, new in ((keys, source.keys), (values, source.values)):
            target = buffer[row : row + len(index)]
            # Attention gives padding no weight, but no weight times whatever the memory held may be NaN.
            target[:, :, self.cache.first : start] = 0
            target[:, :, start : self.cache.end] = new.index_select(0, index)

    def move_rows(self, targets: Tensor, sources: Tensor, first: int, end: int) -> None:
        for buffer in self._buffers():
            buffer[targets, :, first:end] = buffer[sources, :, first:end]

    def resize(self, first: int, end: int) -> None:
        """Moves columns `first`..`end` to the front of a buffer of the cache's current capacity."""
        keys, values = self._buffers()
        rows = self.cache.rows
        self.keys = self._moved(keys, rows, first, end)
        del keys
        self.values = self._moved(values, rows, first, end)

    def _moved(self, buffer: Tensor, rows: int, first: int, end: int) -> Tensor:
        shape = (self.cache.capacity_rows, buffer.shape[1], self.cache.capacity_columns, buffer.shape[3])
        moved = buffer.new_empty(shape)
        moved[:rows, :, : end - first] = buffer[:rows, :, first:end]
        return moved

    def _buffers(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self.cache.end - self.cache.first

    def get_max_length(self) -> int:
        return -1


class BufferCache(Cache):
    """Rows 0..`rows` of every layer's buffer, columns `first`..`end` of it.

    All rows end at column `end`; a row of length L starts at `end - L`. `first` is the leftmost start.
    """

    can_enter = True

    def __init__(self, num_layers: int, capacity_rows: int, width: int, max_new_tokens: int) -> None:
        self.capacity_rows = capacity_rows
        self.capacity_columns = width + min(max_new_tokens, INITIAL_COLUMNS)
        self.rows, self.first, self.end = 0, 0, width
        super().__init__(layers=[BufferLayer(self) for _ in range(num_layers)])

    @property
    def model_cache(self) -> Cache:
        """What is handed to the model as `past_key_values`."""
        return self

    def enter(self, source: DynamicCache, index: Tensor, width: int) -> None:
        """Appends rows `index` of a prefilled cache of `width` columns; `width` <= columns in use so far."""
        for layer, prefilled in zip(self.layers, source.layers, strict=True):
            cast(BufferLayer, layer).write(self.rows, cast(DynamicLayer, prefilled), index, width)
        self.rows += len(index)

    def leave(self, num_left: int, targets: Tensor, sources: Tensor) -> None:
        """Moves rows `sources` to `targets`, then keeps the first `num_left` rows."""
        if len(targets):
            for layer in self.layers:
                cast(BufferLayer, layer).move_rows(targets, sources, self.first, self.end)
        self.rows = num_left

    def reserve(self, first: int) -> int:
        """Makes room for one more column; `first` is the leftmost start. Returns by how much columns moved left."""
        self.first = first
        if self.end < self.capacity_columns:
            return 0
        used = self.end - first
        if used > self.capacity_columns // 2:
            self.capacity_columns += self.capacity_columns // 2 + 1
        for layer in self.layers:
            cast(BufferLayer, layer).resize(first, self.end)
        self.first, self.end = 0, used
        return first

    def advance(self) -> None:
        self.end += 1


class GenericCache:
    """The model's own kind of cache; all rows enter at once."""

    can_enter = False

    def __init__(self, prefilled: DynamicCache, index: Tensor) -> None:
        self.prefilled = prefilled
        self.rows = len(index)
        prefilled.reorder_cache(cast(torch.LongTensor, index))

    @property
    def model_cache(self) -> Cache:
        return self.prefilled

    def leave(self, num_left: int, targets: Tensor, sources: Tensor) -> None:
        index = torch.arange(num_left, device=targets.device)
        index[targets] = sources
        self.prefilled.reorder_cache(cast(torch.LongTensor, index))
        self.rows = num_left

    def reserve(self, first: int) -> int:
        return 0

    def advance(self) -> None:
        pass


RowCache = BufferCache | GenericCache


def empty_cache(config: PretrainedConfig) -> DynamicCache:
    """A fresh cache of the kind that the model wants."""
    return DynamicCache(config=config)


def keeps_all_keys(config: PretrainedConfig) -> bool:
    """True when every layer is ordinary attention over all past tokens, so that `BufferCache` serves."""
    layers = empty_cache(config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def has_recurrent_layers(config: PretrainedConfig) -> bool:
    """True when some layer keeps a running state: padding would enter it, so rows must have equal lengths."""
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in empty_cache(config).layers)
