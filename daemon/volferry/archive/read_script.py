"""How scripts of the helper open and read a volume's files: they end whatever a file system answers."""

from __future__ import annotations

_MOST_INTERRUPTIONS = 1000

# Python's own would ask for ever where the answer is always that it was interrupted. `open_file` gives a descriptor to read; `read_into`
# fills a view, which is not empty, from a place on, and returns how many bytes there are. What has come into the place of a file holds nothing up. Without ctypes, they are Python's own.
READ_SCRIPT = f"""
try:
    import ctypes
    own = ctypes.CDLL(None, use_errno=True)
    pread = getattr(own, "pread64", None) or own.pread
    pread.restype = ctypes.c_ssize_t
    def tried(call, *arguments):
        for _ in range({_MOST_INTERRUPTIONS}):
            if (found := call(*arguments)) >= 0:
                return found
            if ctypes.get_errno() != 4:
                break
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    def open_file(path):
        return tried(getattr(own, "open64", None) or own.open, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    def read_into(file, view, at):
        place = ctypes.byref(ctypes.c_char.from_buffer(view))
        return tried(pread, file, place, ctypes.c_size_t(len(view)), ctypes.c_int64(at))
except ImportError:
    def open_file(path):
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    def read_into(file, view, at):
        return os.preadv(file, [view], at)
"""
