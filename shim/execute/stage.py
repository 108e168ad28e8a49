# What runs first on the execute host: find the runtime, or ask for it, and start its entry point.
#
# Not imported but sent as text, behind a line that assigns P (shim/submit/hosts/bootstrap.py). It has to parse and
# start on any python from 3.4 on (the first with -I), so that one too old for the runtime still answers: no f-strings,
# annotations in quotes. It imports only what is built in, or nearly so, because every run waits for it. What it says on
# standard output is a line NONCE TAB python version TAB word TAB detail where word is "old" (the end), "have" (the
# runtime was in the cache) or "need": then the compressed runtime is read from standard input, and a second such line
# follows with "kept" or, detail being why, "memory". After "have", "kept" and "memory" every byte belongs to the entry
# point. Home may have sent it some already, behind this text: after "need" they are passed over, and come once more
# behind the runtime.
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

# "nonce"; "hash" of the runtime; "entry" as "module:function"; how many bytes for it "follow" this text
P = globals()["P"]


def say(word: str, detail: str = "") -> None:
    version = ".".join([str(part) for part in sys.version_info[:3]])
    line = "\n" + "\t".join([P["nonce"], version, word, detail.replace("\n", " ").replace("\t", " ")]) + "\n"
    data = line.encode("utf-8", "replace")
    while data:
        data = data[os.write(1, data) :]


def cache_dir() -> str:
    # The directory of all runtimes; OSError where there is none that only we can write.
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):
        home = os.environ.get("HOME", "")
        if not home.startswith("/"):
            raise OSError("no home directory")
        base = home + "/.cache"
    return base + "/rexec"


def clause(error: OSError) -> str:
    return "%s: %s" % (error.filename, error.strerror) if error.filename else error.strerror or str(error)


def ours(path: str) -> None:
    status = os.stat(path)
    if status.st_uid != os.geteuid() or status.st_mode & 0o22:
        raise OSError(path + " belongs to, or can be written by, somebody else")


def digest(data: bytes) -> bytes:
    try:
        from _blake2 import blake2b  # hashlib would import OpenSSL
    except ImportError:
        from hashlib import blake2b

    return blake2b(data, digest_size=32).digest()


def modules_of(data: bytes) -> "dict[str, tuple[bool, bytes]]":
    return dict(marshal.loads(data))


def recall(file: str) -> "dict[str, tuple[bool, bytes]] | None":
    # The modules kept in file as {name: (is a package, marshalled code)}; None if it is not there, or not whole.
    try:
        ours(os.path.dirname(file))
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        data = os.read(fd, os.fstat(fd).st_size)
    except OSError:
        return None
    finally:
        os.close(fd)
    if digest(data[32:]) != data[:32]:
        return None
    try:
        os.utime(os.path.dirname(file), None)
    except OSError:
        pass  # a read-only cache still serves; it only looks older to whoever prunes
    return modules_of(data[32:])


def receive(size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = os.read(0, size - len(data))
        if not chunk:
            sys.exit(1)
        data += chunk
    return bytes(data)


def compiled(source: bytes) -> "dict[str, tuple[bool, bytes]]":
    # The payload is "name package-flag size LF source" for each module, one after another.
    modules = {}
    at = 0
    while at < len(source):
        end = source.index(b"\n", at)
        name, package, size = source[at:end].decode().split(" ")
        at = end + 1 + int(size)
        file = "rexec:" + name.replace(".", "/") + ("/__init__.py" if package == "1" else ".py")
        code = compile(source[end + 1 : at], file, "exec", dont_inherit=True, optimize=2)
        modules[name] = (package == "1", marshal.dumps(code))
    return modules


def keep(file: str, modules: "dict[str, tuple[bool, bytes]]") -> None:
    # Written beside and renamed, so that two who start at once, or a full disk, never leave half a file.
    data = marshal.dumps(modules)
    directory = os.path.dirname(file)
    os.makedirs(os.path.dirname(directory), 0o700, exist_ok=True)
    ours(os.path.dirname(directory))
    os.makedirs(directory, 0o700, exist_ok=True)
    ours(directory)
    partial = file + "." + P["nonce"]
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            for part in (digest(data), data):
                while part:
                    part = part[os.write(fd, part) :]
        finally:
            os.close(fd)
        os.rename(partial, file)
    except OSError:
        os.unlink(partial)
        raise
    os.utime(directory, None)


def prune(root: str, keeping: str) -> None:
    # The three used last stay. A runtime in use is in memory whole, so taking its directory away harms nobody; and
    # where another does the same at this moment, or may not, the rest is left to the next who keeps one.
    try:
        found = []
        for name in os.listdir(root):
            if len(name) == 32 and not name.strip("0123456789abcdef") and name != keeping:
                found.append((os.stat(root + "/" + name).st_mtime, name))
        for _, name in sorted(found, reverse=True)[2:]:
            for file in os.listdir(root + "/" + name):
                os.unlink(root + "/" + name + "/" + file)
            os.rmdir(root + "/" + name)
    except OSError:
        return


class Shipped:
    # Finds and loads the runtime's modules, from memory.
    def __init__(self, modules: "dict[str, tuple[bool, bytes]]") -> None:
        self.modules = modules

    def find_spec(self, name: str, path: object = None, target: object = None) -> "ModuleSpec | None":
        if name not in self.modules:
            return None
        package = self.modules[name][0]
        spec = sys.modules["_frozen_importlib"].ModuleSpec
        return spec(name, self, origin="rexec:" + name, is_package=package)

    def create_module(self, spec: "ModuleSpec") -> None:
        return None

    def exec_module(self, module: "ModuleType") -> None:
        names = vars(module)
        exec(marshal.loads(self.modules[names["__name__"]][1]), names)


def link() -> "list[int]":
    # Standard input and output become the link, far above the numbers a job may want; in their place is /dev/null.
    import fcntl

    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in (0, 1)]
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    return moved


def begin() -> None:
    try:
        root = cache_dir()
        # pyc files are of use to one version only: importlib's magic number names it.
        tag = sys.modules["_frozen_importlib_external"].MAGIC_NUMBER.hex()
        file = root + "/" + P["hash"] + "/" + sys.implementation.cache_tag + "-" + tag
        problem = ""
    except OSError as error:
        file = ""
        problem = clause(error)
    modules = recall(file) if file else None
    if modules:
        say("have")
    else:
        say("need")
        receive(P["follow"])
        modules = compiled(zlib.decompress(receive(int(receive(8)))))
        if file:
            try:
                keep(file, modules)
            except OSError as error:
                problem = clause(error)
            else:
                prune(root, P["hash"])
        say("memory" if problem else "kept", problem)
    sys.meta_path.insert(0, Shipped(modules))
    name, function = P["entry"].split(":")
    read_fd, write_fd = link()
    __import__(name)
    sys.exit(getattr(sys.modules[name], function)(read_fd, write_fd))


if sys.version_info < (3, 9):
    say("old")
    sys.exit(1)
import marshal
import zlib

begin()
