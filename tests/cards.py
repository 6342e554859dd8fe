"""Character cards made by hand, as programs for them write them."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from typing import Any

SIGNATURE = b"\x89PNG\r\n\x1a\n"
V2: dict[str, Any] = {
    "spec": "chara_card_v2",
    "spec_version": "2.0",
    "data": {
        "name": "Seraphina",
        "description": "{{char}} guards the forest.",
        "personality": "kind, calm",
        "scenario": "{{user}} wakes up in her hut.",
        "first_mes": "You are awake, {{user}}.",
        "mes_example": "<START>\n{{user}}: Who are you?\n{{char}}: I am {{char}}.\nAnd you?\n<START>\n{{user}}: Hm.",
        "creator_notes": "made with love",
        "system_prompt": "{{original}} You are {{char}}.",
        "post_history_instructions": "{{original}} Stay in character.",
        "alternate_greetings": ["Hello."],
        "tags": [],
        "creator": "somebody",
        "character_version": "main",
        "extensions": {"depth_prompt": {"depth": 4}},
        "character_book": {
            "scan_depth": 2,
            "token_budget": 300,
            "extensions": {},
            "entries": [
                {"keys": ["glade"], "content": "The glade.", "enabled": True, "insertion_order": 2, "extensions": {}},
                {"keys": ["off"], "content": "Off.", "enabled": False, "insertion_order": 0, "extensions": {}},
                {"keys": ["x"], "content": "Always.", "enabled": True, "insertion_order": 1, "constant": True},
                {"keys": [" "], "content": "Never.", "enabled": True, "insertion_order": 3, "extensions": {}},
            ],
        },
    },
}
V3: dict[str, Any] = {
    "spec": "chara_card_v3",
    "spec_version": "3.0",
    "data": V2["data"]
    | {
        "nickname": "Sera",
        "assets": [{"type": "icon", "uri": "ccdefault:", "name": "main", "ext": "png"}],
        "group_only_greetings": [],
        "character_book": {
            "entries": [
                {
                    "keys": ["용"],
                    "content": "@@depth 5\n@@role user\n용은 산에 산다.",
                    "enabled": True,
                    "insertion_order": 1,
                    "use_regex": False,
                    "secondary_keys": ["산"],
                }
            ]
        },
    },
}


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    """One chunk of a PNG with its checksum."""
    return struct.pack("!I", len(content)) + kind + content + struct.pack("!I", zlib.crc32(kind + content))


def png(*chunks: bytes) -> bytes:
    """A picture of one pixel with more chunks before its pixel."""
    head = chunk(b"IHDR", struct.pack("!IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    return SIGNATURE + head + b"".join(chunks) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND")


def coded(card: Any) -> bytes:
    """A card as a picture carries it."""
    return base64.b64encode(json.dumps(card, ensure_ascii=False).encode())


def plain(keyword: bytes, content: bytes) -> bytes:
    return chunk(b"tEXt", keyword + b"\0" + content)


def compressed(keyword: bytes, content: bytes) -> bytes:
    return chunk(b"zTXt", keyword + b"\0\0" + zlib.compress(content, 9))


def international(keyword: bytes, content: bytes, *, is_compressed: bool = False) -> bytes:
    head = keyword + (b"\0\1\0" if is_compressed else b"\0\0\0") + b"en\0\0"
    return chunk(b"iTXt", head + (zlib.compress(content, 9) if is_compressed else content))
