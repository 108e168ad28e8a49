"""Where an image can go on: facts about the host of the dump against facts about another, compared by name.

CRIU alone checks none of this with the options we give it: a job moved to a CPU that lacks an instruction dies of
SIGILL after a restore that succeeded. Shipped: the execute host reads its facts, the submit side compares.
"""

from __future__ import annotations

import os
import struct

from checkpoint import procfs
from checkpoint.value import Value

# Flags of /proc/cpuinfo that user code can use or see; the others tell of virtualisation, power, bugs, speculation.
_PRIVATE = (
    "vmx svm smx est tm tm2 "
    "pbe dts acpi ht ss mce mca mtrr pge pse pse36 pat vme de apic x2apic dca xtpr pdcm pcid dtes64 "
    "monitor ds_cpl tpr_shadow vnmi flexpriority ept vpid ept_ad pti ssbd ibrs ibpb stibp ibrs_enhanced md_clear "
    "flush_l1d arch_capabilities l1d_flush ida arat pln pts hwp hwp_notify hwp_act_window hwp_epp hwp_pkg_req nopl "
    "rep_good arch_perfmon "
    "pebs bts constant_tsc nonstop_tsc tsc_reliable tsc_known_freq tsc_deadline_timer tsc_adjust "
    "hypervisor cpuid "
    "aperfmperf smep smap umip cqm cqm_llc cqm_occup_llc cqm_mbm_total cqm_mbm_local rdt_a rdt_m cat_l3 "
    "cat_l2 cdp_l3 cdp_l2 mba intel_pt intel_ppin epb dtherm nx syscall lm invpcid invpcid_single npt lbrv svm_lock "
    "nrip_save tsc_scale vmcb_clean flushbyasid decodeassists pausefilter pfthreshold avic v_vmsave_vmload vgif "
    "v_spec_ctrl overflow_recov succor smca fsrm split_lock_detect bus_lock_detect amd_ppin extd_apicid ibs skinit wdt "
    "topoext perfctr_core perfctr_nb bpext perfctr_llc mwaitx cpb hw_pstate sme sev sev_es cr8_legacy cmp_legacy svme "
    "osvw tce nodeid_msr xtopology acc_power proc_feedback wbnoinvd irperf xsaveerptr amd_ibrs amd_ibpb amd_stibp "
    "virt_ssbd amd_ssbd ibrs_ibpb_stibp user_shstk"
)
PRIVATE_FLAGS = frozenset(_PRIVATE.split())
AMX = frozenset(("amx_tile", "amx_bf16", "amx_int8"))


class Facts(Value):
    """What of a host matters to an image.

    machine      uname's
    flags        CPU features of /proc/cpuinfo
    xsave        bytes of the CPU's saved state, 0 if unknown
    page         bytes of a memory page
    kernel       its version
    criu         its version
    memory       bytes free for a job
    namespaces   those the kernel has
    uid_map      which ids the job has, or of a host, the best its login can give: "root" all, it is the host's root;
                 "both" 0, its user's own and others, mapped; "own" its user's own alone, which is the login; "zero" 0
                 alone, which is the login: so it was in images made before there was "own"
    """

    __slots__ = ("criu", "flags", "kernel", "machine", "memory", "namespaces", "page", "uid_map", "xsave")
    machine: str
    flags: frozenset[str]
    xsave: int
    page: int
    kernel: tuple[int, ...]
    criu: tuple[int, ...]
    memory: int
    namespaces: frozenset[str]
    uid_map: str

    def __init__(
        self, machine: str, flags: frozenset[str], xsave: int, page: int, kernel: tuple[int, ...],
        criu: tuple[int, ...], memory: int, namespaces: frozenset[str], uid_map: str,
    ) -> None:  # fmt: skip
        self._set(
            machine=machine, flags=flags, xsave=xsave, page=page, kernel=kernel, criu=criu, memory=memory,
            namespaces=namespaces, uid_map=uid_map,
        )  # fmt: skip

    def with_uid_map(self, uid_map: str) -> Facts:
        """Make the facts of the same host for a job that has these ids."""
        return Facts(**{**{name: getattr(self, name) for name in self.__slots__}, "uid_map": uid_map})

    def plain(self) -> dict[str, object]:
        """Write the facts as JSON can hold them, for a manifest."""
        out = {name: getattr(self, name) for name in self.__slots__}
        for name in ("flags", "namespaces"):
            out[name] = sorted(out[name])
        out["kernel"], out["criu"] = list(self.kernel), list(self.criu)
        return out


def from_plain(raw: dict[str, object]) -> Facts:
    """Read what plain() wrote. Raises ValueError naming a field that is missing or of the wrong type."""
    kinds = {"machine": str, "xsave": int, "page": int, "memory": int, "uid_map": str}
    for name, kind in kinds.items():
        if not isinstance(raw.get(name), kind):
            raise ValueError(f"the image's host facts lack {name}")
    lists = {}
    for name, item in (("flags", str), ("namespaces", str), ("kernel", int), ("criu", int)):
        value = raw.get(name)
        if not isinstance(value, list) or not all(isinstance(x, item) for x in value):
            raise ValueError(f"the image's host facts lack {name}")
        lists[name] = value
    return Facts(
        str(raw["machine"]), frozenset(lists["flags"]), int(str(raw["xsave"])), int(str(raw["page"])),
        tuple(lists["kernel"]), tuple(lists["criu"]), int(str(raw["memory"])), frozenset(lists["namespaces"]),
        str(raw["uid_map"]),
    )  # fmt: skip


def differences(image: Facts, host: Facts, needed: int) -> list[str]:
    """Say why an image of needed bytes of memory cannot go on at that host; empty: it can."""
    if image.machine != host.machine:
        return [f"the image is of a {image.machine} machine, this one is {host.machine}"]
    out = []
    missing = sorted(image.flags - host.flags - PRIVATE_FLAGS)
    if missing:
        out.append(f"its CPU lacks {', '.join(missing)}, which the job may be using")
    if image.xsave > host.xsave > 0:
        out.append(f"its CPU saves {host.xsave} bytes of state, the image has {image.xsave}")
    if image.flags & AMX and host.flags & AMX != image.flags & AMX:
        out.append("the image may hold AMX state, which is not saved")
    if image.page != host.page:
        out.append(f"its memory pages have {host.page} bytes, the image's {image.page}")
    if (image.kernel < (6, 13)) != (host.kernel < (6, 13)) and min(image.criu, host.criu) < (4, 1):
        out.append("the kernels' vdso differ across 6.13, which criu before 4.1 cannot bridge")
    if host.criu[:1] < image.criu[:1]:
        out.append(f"its criu {_dots(host.criu)} is older than the image's {_dots(image.criu)}")
    lacking = sorted(image.namespaces - host.namespaces)
    if lacking:
        out.append(f"its kernel lacks the namespaces {', '.join(lacking)}")
    out += filter(None, [ids_differ(image.uid_map, host.uid_map)])
    if needed > host.memory:
        out.append(f"it has {host.memory >> 20} MiB of memory free, the job needs {needed >> 20}")
    return out


def ids_differ(image: str, host: str) -> str:
    """Say why an image with the one uid_map cannot go on where the login has the other, or ""."""
    own = ("both", "own")  # what its user's own id is within, and so the ids of all that a job may do, is the same
    if image == host or (image in own and host in (*own, "root")) or (image == "zero" and host in own):
        return ""
    if image == "root":
        return "the job was started as its host's root, this login is an ordinary user's: name a login as root"
    return "the job sees itself as uid 0, which an ordinary login can give it, this login is root's: name another"


def _dots(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


# ------------------------------------------------------------------------------------------------ this host


def xsave_size() -> int:
    """Read how many bytes of state a signal frame needs: AT_MINSIGSTKSZ of auxv(3), or 0 if unknown."""
    with open("/proc/self/auxv", "rb") as f:
        raw = f.read()
    return next((value for tag, value in struct.iter_unpack("@LL", raw[: len(raw) // 16 * 16]) if tag == 51), 0)


def host_facts(criu: tuple[int, ...], uid_map: str) -> Facts:
    """Gather this host's facts; criu: the version that would be used here."""
    uname = os.uname()
    with open("/proc/cpuinfo") as f:
        flags = procfs.cpu_features(f.read())
    with open("/proc/meminfo") as f:
        memory = procfs.memory(f.read()).get("MemAvailable", 0)
    kernel = tuple(int(part) for part in uname.release.split("-")[0].split(".")[:2])
    namespaces = frozenset(n for n in os.listdir("/proc/self/ns") if not n.endswith("_for_children"))
    page = os.sysconf("SC_PAGE_SIZE")
    return Facts(uname.machine, flags, xsave_size(), page, kernel, criu, memory, namespaces, uid_map)
