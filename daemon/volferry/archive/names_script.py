"""Asks the kernel itself for the names in directories: what other programs have of them may be less."""

from __future__ import annotations

from volferry.archive.tree_scripts import PATHS, PYTHON

# A directory's names as the kernel itself gives them, each with its inode number and its kind (0: unknown, 4: a directory); what is the
# end of a directory for the C library may be an error.
KERNEL_NAMES = r"""
import ctypes
library = ctypes.CDLL(None, use_errno=True)
getdents = getattr(library, "getdents64", None) or library.getdents
memory = ctypes.create_string_buffer(1 << 16)
def kernel_names(path):
    # Python's own would ask for ever where the answer is always that it was interrupted.
    directory = library.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if directory < 0:
        raise OSError(ctypes.get_errno(), "")
    try:
        while (size := getdents(directory, memory, len(memory))) > 0:
            found, at = memory.raw, 0
            while at < size:
                end = at + int.from_bytes(found[at + 16 : at + 18], sys.byteorder)
                name = found[at + 19 : found.index(0, at + 19)]
                if name not in (b".", b".."):
                    yield int.from_bytes(found[at : at + 8], sys.byteorder), found[at + 18], name
                at = end
        if size:
            raise OSError(ctypes.get_errno(), "")
    finally:
        os.close(directory)
"""

# Of NUL-ended paths of directories, those whose names the kernel does not give to their end, though they are there: NUL-ended "<number of the error> <path>".
# The kernel itself is asked: of "no such file", the C library makes the end of a directory that has been removed. What a server has removed may seem to
# be there for as long as the kernel believes what it was told last, by default a second of FUSE and of CIFS. At the first directory of which programs do not see all names, it ends with
# "0 <path>": where a name has the inode number 0; or where nothing was listed below, which a "/" behind its path says, names are there, and the directory above calls it something else, or is not asked for.
# With a second argument, those on other file systems than the first directory's are not looked into.
NAMES_SCRIPT = f"""{PATHS}{KERNEL_NAMES}
import time
device = os.lstat(".").st_dev if len(sys.argv) > 2 else None
def is_any(path):
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError:
        pass
    return True
above, others = None, set()
def is_called_another(path):
    global above, others
    directory, _, name = path.rpartition(b"/")
    if directory != above:
        above, others = directory, set()
        try:
            others.update(name for _, kind, name in kernel_names(directory or b".") if kind not in (0, 4))
        except OSError:
            pass
    return name in others
def has_hidden(path, nothing_below):
    if device is not None and os.lstat(path or b".").st_dev != device:
        return False
    any_name = False
    for inode, _, name in kernel_names(path or b"."):
        any_name = True
        if not inode and is_any(path + b"/" + name if path else name):
            return True
    return any_name and nothing_below and (not path or is_called_another(path))
def is_there(path):
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
broken = []
for path in paths():
    path, nothing_below = path.rstrip(b"/"), path.endswith(b"/")
    try:
        if has_hidden(path, nothing_below):
            sys.stdout.buffer.write(b"0 %s\\0" % path)
            broken.clear()
            break
    except OSError as error:
        broken.append((error.errno, path))
if broken:
    time.sleep(1.5)
for number, path in broken:
    if is_there(path or b"."):
        sys.stdout.buffer.write(b"%d %s\\0" % (number, path))
sys.stdout.buffer.flush()
"""


def names_command(directory: str, *, one_file_system: bool = False) -> list[str]:
    return [PYTHON, "-I", "-c", NAMES_SCRIPT, directory, *(["one"] if one_file_system else [])]
