"""AES-256 in counter mode, by the libcrypto that Python's hashlib has loaded already. Shipped.

Source: EVP_EncryptInit(3), mlock(2).
"""

from __future__ import annotations

import ctypes
import mmap

KEY = 32  # bytes
_BLOCK = 16


class Cipher:
    """Encrypts and decrypts by a key, in memory that is not swapped, as far as the kernel allows it.

    Threads: any, at once; the key is not changed, and libcrypto runs without Python's lock.
    """

    def __init__(self, library: ctypes.CDLL, key: bytes = b"") -> None:
        """`key`: of KEY bytes; none: one that is only here, made by chance."""
        self._library = library
        self._aes = library.EVP_aes_256_ctr()
        self._key = mmap.mmap(-1, mmap.PAGESIZE)
        self._at = ctypes.addressof(ctypes.c_char.from_buffer(self._key))
        # refused beyond RLIMIT_MEMLOCK, which is 8 MiB, and was 64 KiB: then it is as safe as what else is in memory
        ctypes.CDLL(None).mlock(ctypes.c_void_p(self._at), ctypes.c_size_t(mmap.PAGESIZE))
        self._key.madvise(mmap.MADV_DONTDUMP)
        if key:
            self._key[:KEY] = key
            return
        with open("/dev/urandom", "rb", 0) as source, memoryview(self._key) as page:
            source.readinto(page[:KEY])

    def forget(self) -> None:
        """Overwrite the key: nobody can decrypt any more what it encrypted."""
        self._key[:KEY] = bytes(KEY)

    def apply(self, data: memoryview, position: int) -> None:
        """Encrypt or decrypt `data` where it is: the bytes from `position` of the stream on.

        What is encrypted at one position twice, with other bytes, betrays both: never do that.
        """
        if not data:
            return
        library, size = self._library, len(data)
        at = ctypes.addressof(ctypes.c_char.from_buffer(data))
        context = ctypes.c_void_p(library.EVP_CIPHER_CTX_new())
        done = ctypes.c_int()
        try:
            counter = (position // _BLOCK).to_bytes(_BLOCK, "big")
            good = library.EVP_EncryptInit_ex(context, self._aes, None, ctypes.c_void_p(self._at), counter)
            skipped = position % _BLOCK
            if good and skipped:
                rest = ctypes.create_string_buffer(skipped)
                good = library.EVP_EncryptUpdate(context, rest, ctypes.byref(done), rest, skipped)
            for start in range(0, size, 1 << 30):
                part = min(1 << 30, size - start)
                where = ctypes.c_void_p(at + start)
                good = good and library.EVP_EncryptUpdate(context, where, ctypes.byref(done), where, part)
            if not good or done.value != (size - 1) % (1 << 30) + 1:
                raise OSError("libcrypto does not encrypt")
        finally:
            library.EVP_CIPHER_CTX_free(context)  # and what it knew of the key is overwritten


def available() -> ctypes.CDLL | None:
    """Find libcrypto with what is needed of it; None: Python here has none."""
    for name in _names():
        try:
            library = ctypes.CDLL(name)
            library.EVP_aes_256_ctr.restype = library.EVP_CIPHER_CTX_new.restype = ctypes.c_void_p
            library.EVP_aes_256_ctr.argtypes = library.EVP_CIPHER_CTX_new.argtypes = []
            library.EVP_EncryptInit_ex.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_char_p]
            library.EVP_EncryptUpdate.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int]
            library.EVP_CIPHER_CTX_free.argtypes = [ctypes.c_void_p]
            library.EVP_CIPHER_CTX_free.restype = None
        except (OSError, AttributeError):
            continue
        return library
    return None


def _names() -> list[str]:
    try:
        import _hashlib

        # what a library needs is found through it: the very libcrypto that hashlib has
        own = [str(_hashlib.__file__)] if hasattr(_hashlib, "__file__") else []
    except ImportError:
        own = []
    return [*own, "libcrypto.so.3", "libcrypto.so.1.1"]
