"""Ways in which a file of the experience store can be damaged."""


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "a tensor's bit": lambda path: flip(path, -1),
    "a bit of the header": lambda path: flip(path, 300),
    "no longer there": lambda path: path.unlink(),
    "other tensors": lambda path: path.write_bytes(
        b"\x02\0\0\0\0\0\0\0{}",
    ),
    "of a later version": lambda path: path.write_bytes(
        path.read_bytes().replace(b'\\"format\\": 1', b'\\"format\\": 2')
    ),
}
