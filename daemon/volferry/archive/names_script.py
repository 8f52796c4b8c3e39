"""Asks the kernel itself for the names in directories: what other programs have of them may be less."""

from __future__ import annotations

from volferry.archive.tree_scripts import PATHS, python_command

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

# Takes NUL-ended "<names> <change times> <path>" of directories, as `directory_line` writes them, and answers with NUL-ended "<answer> <path>". The kernel itself is asked: of "no such file",
# the C library makes the end of a directory that has been removed.
# - The number of an error: its names are not given to their end, though it is there.
# - -1: it has more names than were listed, and did not change since.
# - 0, and that is the last one: it has names that were not listed, which another way of listing may find. One has the inode number 0; or nothing was listed below, and the directory above
#   calls it something else, or is not asked for; or it has more names than were listed. Not with a third argument, with which all were listed in that other way.
# What a server has removed may seem to be there for as long as the kernel believes what it was told last, by default a second of FUSE and of CIFS: before an answer that depends on it, there is
# a pause, and the directory is asked once more. Names that nothing can be found out of do not count: the listing has said that of each. Nor do those of what changed since the listing began, by the fourth argument: where
# several directories lie behind one (mergerfs), the times of that one need not tell that files were made in it.
# With a second argument, directories on other file systems than the first one's are not looked into.
NAMES_SCRIPT = f"""{PATHS}
try:
    import ctypes
except ImportError:  # nobody can be asked
    sys.exit()
{KERNEL_NAMES}
import time
device = os.lstat(".").st_dev if sys.argv[2] else None
is_last = bool(sys.argv[3])
began = int(sys.argv[4])
def answer(number, path):
    sys.stdout.buffer.write(b"%d %s\\0" % (number, path))
    if not number:
        sys.stdout.buffer.flush()
        sys.exit()
def at(directory, name):
    return directory + b"/" + name if directory else name
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
def is_walked(path):
    return device is None or os.lstat(path or b".").st_dev == device
def seems_right(path, listed):
    if not is_walked(path):
        return True
    number = 0
    for inode, _, name in kernel_names(path or b"."):
        number += 1
        if not inode and not is_last and is_any(at(path, name)):
            answer(0, path)
    if not is_last and number and not listed and (not path or is_called_another(path)):
        answer(0, path)
    return number <= listed
def is_there(path):
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
def was_there(path):
    try:
        return os.lstat(path).st_ctime_ns < began
    except OSError:
        return False
def times(path):
    found = os.lstat(path)
    return b" ".join(b"%d.%09d0" % divmod(each, 10**9) for each in (found.st_mtime_ns, found.st_ctime_ns))
def falls_short(path, listed, then):
    if not is_walked(path):
        return False
    names = {{name for _, _, name in kernel_names(path or b".")}}
    return len(names) > listed and sum(was_there(at(path, name)) for name in names) > listed and times(path or b".") == then
def parts(line):
    listed, mtime, ctime, path = line.split(b" ", 3)
    return path, int(listed), mtime + b" " + ctime
doubtful = []
for line in paths():
    path, listed, _ = parts(line)
    try:
        if not seems_right(path, listed):
            doubtful.append(line)
    except OSError:
        doubtful.append(line)
if doubtful:
    time.sleep(1.5)
for line in doubtful:
    path, listed, then = parts(line)
    try:
        if falls_short(path, listed, then):
            answer(-1 if is_last else 0, path)
    except OSError as error:
        if is_there(path or b"."):
            answer(error.errno, path)
sys.stdout.buffer.flush()
"""


def directory_line(names: int, times: bytes, path: bytes) -> bytes:
    """A line for `names_command`: how many names were listed, and when the directory changed, as a record has its times."""
    return b"%d %s %s" % (names, times, path)


def names_command(
    directory: str, *, began: float = 0.0, one_file_system: bool = False, is_last: bool = False
) -> list[str]:
    """`began` is when the listing was begun, by the engine's clock. With `is_last`, there is no other way of listing left."""
    options = ["yes" if each else "" for each in (one_file_system, is_last)]
    return python_command(NAMES_SCRIPT, directory, *options, str(int(began * 10**9)))
