"""Multiplies tiles of int8 vectors and compares the products with thresholds while they are in registers.

A matrix product writes its products to memory, and the comparing reads them again: a third of the time of the product
itself. Here a product that reaches no threshold is never written. Needs avx512_vnni, whose instruction vpdpbusd adds
64 products of 8-bit numbers to 16 sums of 32 bits (Intel 64 and IA-32 Architectures Software Developer's Manual, 2C);
sums are exact. Numba has no such instruction, so a tile is written in LLVM's language.

    tile       QUERIES x DOCS products, their sums in QUERIES x GROUPS registers of 16 documents each
    numbers    -127 to 127; vpdpbusd wants one side unsigned, so 128 is added to those of documents, and a query's sums
               begin at -128 times the sum of its numbers
    panel      DOCS documents, four dimensions of 16 of them side by side: what one register takes
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic
from numpy.typing import NDArray

from raymine.index.first_pass import Rounded

if TYPE_CHECKING:
    import torch

LANES, BYTES = 16, 64  # of a register: sums of 32 bits
QUERIES, GROUPS = 8, 3  # 24 registers of sums, and 8 for what is multiplied
DOCS = GROUPS * LANES
QUAD = 4  # dimensions that one instruction sums

WORD, LONG = ir.IntType(32), ir.IntType(64)
SUMS, VALUES = ir.VectorType(WORD, LANES), ir.VectorType(ir.FloatType(), LANES)
ADD_PRODUCTS = "llvm.x86.avx512.vpdpbusd.512"
BITS = ir.IntType(LANES)  # a mask


def is_supported() -> bool:
    """Whether numba compiles for a CPU with avx512_vnni."""
    is_host = config.CPU_NAME is None and config.CPU_FEATURES is None
    return is_host and "+avx512vnni" in get_host_cpu_features().split(",")


@dataclass(frozen=True)
class Panels:
    """Documents as tiles take them.

    Args:
        numbers: uint8 [panels, dim / QUAD, GROUPS, LANES, QUAD], rounded up; of what fills a panel, anything.
        scales: float32 [panels * DOCS].
        residuals: float32 [panels * DOCS]; not a number where there is no document, which reaches no threshold.
    """

    numbers: NDArray[np.uint8]
    scales: NDArray[np.float32]
    residuals: NDArray[np.float32]


def panels_of(docs: Rounded) -> Panels:
    """Documents in int8 as panels."""
    import torch

    num_docs, dim = docs.tensor.shape
    num_panels, quads = -(-num_docs // DOCS), -(-dim // QUAD)
    padded = torch.zeros((num_panels * DOCS, quads * QUAD), dtype=torch.uint8)
    torch.bitwise_xor(docs.tensor.view(torch.uint8), 0x80, out=padded[:num_docs, :dim])
    numbers = padded.view(torch.int32).view(num_panels, GROUPS, LANES, quads).permute(0, 3, 1, 2).contiguous()
    scales, residuals = (np.full(num_panels * DOCS, np.nan, np.float32) for _ in range(2))
    scales[:num_docs], residuals[:num_docs] = docs.scales, docs.residuals
    as_bytes = numbers.view(torch.uint8).numpy().reshape(num_panels, quads, GROUPS, LANES, QUAD)
    return Panels(as_bytes, scales, residuals)


def packed_queries(tensor: torch.Tensor) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
    """Queries as they are multiplied, and where their sums begin.

    Args:
        tensor: int8 [q, dim].

    Returns:
        int8 [rows, ceil(dim / QUAD) * QUAD] and int32 [rows], rows a multiple of QUERIES, filled with zeros.
    """
    num_queries, dim = tensor.shape
    queries = np.zeros((padded_rows(num_queries), -(-dim // QUAD) * QUAD), np.int8)
    queries[:num_queries, :dim] = tensor.numpy()
    return queries, -128 * queries.sum(axis=1, dtype=np.int32)


def padded_rows(num_queries: int) -> int:
    """The next multiple of QUERIES."""
    return -(-num_queries // QUERIES) * QUERIES


@intrinsic
def offer_tile(  # type: ignore[no-untyped-def]
    typing_context,
    queries,  # address of int8 [QUERIES, stride]
    stride,  # dimensions of a query, a multiple of QUAD
    starts,  # address of int32 [QUERIES]
    docs,  # address of a panel
    scales,  # address of float32 [DOCS]
    residuals,  # address of float32 [DOCS]
    slopes,  # address of float32 [QUERIES]
    thresholds,  # address of float32 [QUERIES]
    values,  # address of float32 [QUERIES, capacity]
    in_race,  # address of int32 [QUERIES, capacity]
    capacity,
    sizes,  # address of int64 [QUERIES]
    first_doc,
):
    """Appends to each query's `values` and `in_race` the documents of a panel that reach its threshold.

    Up to DOCS places behind a query's size are written to.
    """
    return types.void(*[types.uintp] * 13), _offer_tile


def _offer_tile(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
    (
        queries,
        stride,
        starts,
        docs,
        scales,
        residuals,
        slopes,
        thresholds,
        values,
        in_race,
        capacity,
        sizes,
        first_doc,
    ) = arguments
    code = Code(builder)
    sums = _multiply(code, queries, stride, docs, [code.spread(starts, 4 * row, WORD) for row in range(QUERIES)])
    doc_scales = [code.load(scales, BYTES * group, VALUES) for group in range(GROUPS)]
    doc_residuals = [code.load(residuals, BYTES * group, VALUES) for group in range(GROUPS)]
    lanes = ir.Constant(SUMS, list(range(LANES)))
    for row in range(QUERIES):
        slope = code.spread(slopes, 4 * row, ir.FloatType())
        threshold = code.spread(thresholds, 4 * row, ir.FloatType())
        uppers = [
            code.call("llvm.fma.v16f32", VALUES, builder.sitofp(total, VALUES), scale, builder.fmul(slope, residual))
            for total, scale, residual in zip(sums[row], doc_scales, doc_residuals, strict=True)
        ]
        reached = [builder.fcmp_ordered(">=", upper, threshold) for upper in uppers]
        bits = [builder.bitcast(mask, BITS) for mask in reached]
        any_bits = bits[0]
        for each in bits[1:]:
            any_bits = builder.or_(any_bits, each)
        with builder.if_then(builder.icmp_unsigned("!=", any_bits, ir.Constant(BITS, 0)), likely=False):
            size = code.load(sizes, 8 * row, LONG)
            begin = builder.mul(capacity, code.number(row))
            for group in range(GROUPS):
                place = builder.mul(builder.add(begin, size), code.number(4))
                doc = builder.trunc(builder.add(first_doc, code.number(group * LANES)), WORD)
                numbers = builder.add(code.spread_value(doc), lanes)
                code.store(values, place, code.compress(uppers[group], reached[group]))
                code.store(in_race, place, code.compress(numbers, reached[group]))
                size = builder.add(size, builder.zext(code.call("llvm.ctpop.i16", BITS, bits[group]), LONG))
            code.store(sizes, code.number(8 * row), size)
    return context.get_dummy_value()


def _multiply(code: Code, queries: Any, stride: Any, docs: Any, starts: list[Any]) -> list[list[Any]]:
    """The sums [QUERIES][GROUPS] of a tile, beginning at `starts`."""
    builder, before = code.builder, code.builder.block
    loop, after = builder.append_basic_block("multiply"), builder.append_basic_block("compare")
    builder.branch(loop)
    builder.position_at_end(loop)
    column = builder.phi(LONG)  # a multiple of QUAD
    sums = [[builder.phi(SUMS) for _ in range(GROUPS)] for _ in range(QUERIES)]
    panel = builder.add(docs, builder.mul(column, code.number(DOCS)))
    groups = [code.load(panel, BYTES * group, SUMS) for group in range(GROUPS)]
    added = []
    for row in range(QUERIES):
        place = builder.add(builder.mul(stride, code.number(row)), column)
        quad = code.spread(queries, place, WORD)
        added.append([code.call(ADD_PRODUCTS, SUMS, sums[row][g], groups[g], quad) for g in range(GROUPS)])
    following = builder.add(column, code.number(QUAD))
    column.add_incoming(code.number(0), before)
    column.add_incoming(following, loop)
    for row in range(QUERIES):
        for group in range(GROUPS):
            sums[row][group].add_incoming(starts[row], before)
            sums[row][group].add_incoming(added[row][group], loop)
    builder.cbranch(builder.icmp_unsigned("<", following, stride), loop, after)
    builder.position_at_end(after)
    return added


class Code:
    """What a tile's code is made of. Places are offsets in bytes from an address, known now or then."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    def number(self, value: int) -> Any:
        return ir.Constant(LONG, value)

    def call(self, name: str, returned: Any, *arguments: Any) -> Any:
        """Calls a function of LLVM's."""
        module = self.builder.module
        kind = ir.FunctionType(returned, [each.type for each in arguments])
        return self.builder.call(module.globals.get(name) or ir.Function(module, kind, name), arguments)

    def load(self, address: Any, place: Any, kind: Any) -> Any:
        loaded = self.builder.load(self._at(address, place, kind))
        loaded.align = 4
        return loaded

    def store(self, address: Any, place: Any, value: Any) -> None:
        self.builder.store(value, self._at(address, place, value.type)).align = 4

    def _at(self, address: Any, place: Any, kind: Any) -> Any:
        place = self.number(place) if isinstance(place, int) else place
        return self.builder.inttoptr(self.builder.add(address, place), kind.as_pointer())

    def spread(self, address: Any, place: Any, kind: Any) -> Any:
        """A number in every lane of a register."""
        return self.spread_value(self.load(address, place, kind))

    def spread_value(self, value: Any) -> Any:
        vector = ir.VectorType(value.type, LANES)
        nothing = ir.Constant(vector, ir.Undefined)
        one = self.builder.insert_element(nothing, value, ir.Constant(WORD, 0))
        return self.builder.shuffle_vector(one, nothing, ir.Constant(SUMS, [0] * LANES))

    def compress(self, vector: Any, mask: Any) -> Any:
        """The lanes of a mask, side by side."""
        kind = "f32" if vector.type == VALUES else "i32"
        zeros = ir.Constant(vector.type, None)
        return self.call(f"llvm.x86.avx512.mask.compress.v16{kind}", vector.type, vector, zeros, mask)
