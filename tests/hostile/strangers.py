"""What is not what its name, its header or its first bytes say."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator

from PIL import Image

from tests.hostile.images import DECODE, FORMAT, MAGIC, SEED, Case, family, saved, seeds

STRANGERS = {
    "empty": b"",
    "one": b"\xff",
    "two": b"\xff\xd8",
    "zeros": bytes(5000),
    "spaces": b" " * 5000,
    "newline": b"\n",
    "html": b"<!DOCTYPE html><title>404</title>",
    "html2": b"<html><body>no",
    "bom": b"\xef\xbb\xbf<html>",
    "xml": b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY y SYSTEM 'file:///etc/passwd'>]><x>&y;</x>",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "json": b'{"error": "not found"}',
    "text": b"Not found\n",
    "script": b"#!/bin/sh\nid\n",
    "ps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (w) file\n",
    "eps": b"\xc5\xd0\xd3\xc6" + bytes(99),
    "pdf": b"%PDF-1.7\n%\xe2\xe3",
    "elf": b"\x7fELF\2\1\1" + bytes(99),
    "exe": b"MZ\x90\0" + bytes(99),
    "zip": b"PK\3\4" + bytes(99),
    "gzip": b"\x1f\x8b\x08" + bytes(99),
    "xz": b"\xfd7zXZ\0" + bytes(99),
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(99),
    "rar": b"Rar!\x1a\7\1\0" + bytes(99),
    "7z": b"7z\xbc\xaf\x27\x1c" + bytes(99),
    "class": b"\xca\xfe\xba\xbe" + bytes(99),
    "wasm": b"\0asm\1\0\0\0",
    "pickle": b"\x80\x04\x95\x1a\0\0\0cos\nsystem\n",
    "sqlite": b"SQLite format 3\0",
    "psd": b"8BPS\0\1" + bytes(99),
    "jxl": b"\xff\x0a" + bytes(99),
    "jxl-box": b"\0\0\0\x0cJXL \r\n\x87\n",
    "j2k": b"\xff\x4f\xff\x51" + bytes(99),
    "jp2": b"\0\0\0\x0cjP  \r\n\x87\n",
    "ico": b"\0\0\1\0\1\0" + bytes(99),
    "cur": b"\0\0\2\0\1\0" + bytes(99),
    "wmf": b"\xd7\xcd\xc6\x9a" + bytes(99),
    "emf": b"\1\0\0\0" + bytes(36) + b" EMF",
    "fits": b"SIMPLE  =" + b" " * 99,
    "xcf": b"gimp xcf " + bytes(99),
    "webm": b"\x1aE\xdf\xa3" + bytes(99),
    "ogg": b"OggS" + bytes(99),
    "mp3": b"ID3\3" + bytes(99),
    "flac": b"fLaC" + bytes(99),
    "wav": b"RIFF\x24\0\0\0WAVEfmt ",
    "avi": b"RIFF\x24\0\0\0AVI LIST",
    "flv": b"FLV\1\5",
    "mpeg": b"\0\0\1\xba" + bytes(99),
    "mp4": b"\0\0\0\x18ftypisom\0\0\2\0isomiso2",
    "mov": b"\0\0\0\x14ftypqt  \0\0\2\0qt  ",
    "3gp": b"\0\0\0\x14ftyp3gp4\0\0\2\0",
    "m3u8": b"#EXTM3U\nfile:///etc/passwd\n",
    "mvg": b"push graphic-context\nimage over 0,0 0,0 'ephemeral:/x'\n",
    "msl": b"<image><read filename='/etc/passwd'/></image>",
    "xpm": b"/* XPM */\n",
    "xbm": b"#define x_width 9\n",
    "font": b"\0\1\0\0\0\x0f\0\x80",
    "woff": b"wOFF" + bytes(99),
    "lnk": b"L\0\0\0" + bytes(99),
    "bplist": b"bplist00" + bytes(9),
    "jpeg-upside": b"\xd8\xff\xe0\xff",
    "jpeg-one-off": b"\xff\xd9\xff\xe0",
    "png-text": b"PNG\r\n\x1a\n",
    "gif88": b"GIF88a" + bytes(99),
    "png-unix": b"\x89PNG\n\x1a\n\0",
    "tiff-wrong": b"II\0*" + bytes(99),
    "tiff-mixed": b"IM*\0" + bytes(99),
    "webp-wrong": b"RIFF\x24\0\0\0WEBQVP8 ",
    "bm-short": b"BM" + bytes(9),
    "big": bytes(1_000_000),
}

# formats that Pillow would read and that are not on our list: what is never given a decoder
EXOTIC = (
    "BLP",
    "BUFR",
    "DDS",
    "DIB",
    "EPS",
    "ICNS",
    "ICO",
    "JPEG2000",
    "MPO",
    "MSP",
    "PALM",
    "PCX",
    "PPM",
    "QOI",
    "SGI",
    "SPIDER",
    "TGA",
    "XBM",
)
_MODES = {"BLP": "P", "MSP": "1", "PALM": "P", "SPIDER": "F", "XBM": "1", "EPS": "L"}


def strangers() -> Iterator[Case]:
    """What is no image, or none of a format on the list, whatever its name and header say."""
    for name, data in STRANGERS.items():
        yield Case(f"magic/{name}", data, FORMAT)
    picture = Image.new("RGB", (64, 48), (200, 30, 30))
    for form in EXOTIC:
        try:
            data = saved(picture.convert(_MODES.get(form, "RGB")), form)
        except (OSError, KeyError):  # this Pillow cannot write it
            continue
        if not data.startswith(b"\xff\xd8\xff"):  # an MPO of one picture is a JPEG
            yield Case(f"magic/saved-{form.lower()}", data, FORMAT)
    rng = random.Random(SEED)
    for number in range(60):
        data = rng.randbytes(rng.choice((3, 40, 700, 9000)))
        yield Case(f"magic/random-{number}", b"?" + data, FORMAT)
    heif = FORMAT if importlib.util.find_spec("pillow_heif") is None else DECODE
    for brand in (b"heic", b"heix", b"mif1", b"msf1"):
        data = b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + bytes(99)
        yield Case(f"magic/{brand.decode()}", data, heif)
    for name, data in seeds().items():  # a magic number with another format behind it
        for other in ("jpeg", "png", "webp-lossy", "bmp", "tiff"):
            if family(other) != family(name):
                size = MAGIC[family(other)]
                yield Case(f"magic/{other}-on-{name}", seeds()[other][:size] + data[size:], DECODE)
