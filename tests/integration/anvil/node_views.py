"""What nodes tell that are not where the others are: one that lags, and one on another branch. Lies for a proxy."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from anvil_node import AnvilNode
from lying_proxy import Lie

from usufruct.chain.endpoint import RpcRefused

_AT_BLOCK = ("eth_call", "eth_getCode", "eth_getBalance", "eth_getTransactionCount", "eth_estimateGas")
_TAGS = ("latest", "pending", "safe", "finalized")


def lagging(node: AnvilNode, height: int, finality: int) -> Lie:
    """The node as it was when ``height`` was its newest block; it takes transactions all the same."""

    def at(number: int | str) -> int:
        if number in ("safe", "finalized"):
            return max(0, height - finality)
        return height if isinstance(number, str) and number in _TAGS else int(str(number), 16)

    def tell(method: str, params: list[Any], result: Any) -> Any:
        if method == "eth_blockNumber":
            return hex(height)
        if method == "eth_getBlockByNumber":
            number = at(params[0])
            return None if number > height else node.request(method, hex(number), *params[1:])
        if method in _AT_BLOCK:
            number = at(params[-1])
            if number > height:
                raise RpcRefused("unknown block", None)
            return node.request(method, *params[:-1], hex(number))
        if method == "eth_getLogs":
            return [log for log in result if int(log["blockNumber"], 16) <= height]
        if method in ("eth_getTransactionReceipt", "eth_getTransactionByHash") and result is not None:
            mined = result["blockNumber"]
            return result if mined is not None and int(mined, 16) <= height else None
        return result

    return tell


def told_by(node: AnvilNode) -> Lie:
    """What another node says."""
    return lambda method, params, result: node.request(method, *params)


def copy_state(node: AnvilNode, path: Path) -> Path:
    """Writes the node's chain as it is now, for another node to begin with."""
    dumped = bytes.fromhex(node.request("anvil_dumpState", True)[2:])
    path.write_bytes(gzip.decompress(dumped))
    return path
