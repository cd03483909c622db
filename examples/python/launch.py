#!/usr/bin/env python3
"""Launches a confined program through portcullis-launcher, in another language than its own.

    launch.py LAUNCHER PROGRAM [ARG...]    launch, and print the transcript to standard error
    launch.py --check VECTORS              check a folder of golden vectors

Needs the standard library and cbor2. docs/protocol.md is what it implements.
"""

import fcntl
import json
import os
import struct
import subprocess
import sys

import cbor2

# BLAKE3, which hashlib does not have; the hash mode of its specification, section 2.

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
LANES = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8
MASK = 0xFFFFFFFF


def compress(chaining_value, words, counter, length, flags):
    state = [*chaining_value, *IV[:4], counter & MASK, counter >> 32, length, flags]

    def rotate(value, bits):
        return (value >> bits | value << (32 - bits)) & MASK

    for _ in range(7):
        for lane, (a, b, c, d) in enumerate(LANES):
            for word, (first, second) in ((words[2 * lane], (16, 12)), (words[2 * lane + 1], (8, 7))):
                state[a] = (state[a] + state[b] + word) & MASK
                state[d] = rotate(state[d] ^ state[a], first)
                state[c] = (state[c] + state[d]) & MASK
                state[b] = rotate(state[b] ^ state[c], second)
        words = [words[place] for place in PERMUTATION]
    return [state[i] ^ state[i + 8] for i in range(8)]


def node(data, index):
    """The last compression of a subtree, still to be made: as a parent's child, or as the root."""
    if len(data) > 1024:
        left = 1024
        while left * 2 < len(data):
            left *= 2
        children = compress(*node(data[:left], index)) + compress(*node(data[left:], index + left // 1024))
        return IV, children, 0, 64, PARENT
    chaining_value = IV
    blocks = [data[at : at + 64] for at in range(0, len(data), 64)] or [b""]
    for place, block in enumerate(blocks):
        words = struct.unpack("<16I", block.ljust(64, b"\0"))
        flags = CHUNK_START if place == 0 else 0
        if place == len(blocks) - 1:
            return chaining_value, words, index, len(block), flags | CHUNK_END
        chaining_value = compress(chaining_value, words, index, 64, flags)


def blake3(data):
    chaining_value, words, counter, length, flags = node(data, 0)
    return struct.pack("<8I", *compress(chaining_value, words, counter, length, flags | ROOT))


# The plan.


def canonical(value):
    """Deterministic CBOR. (Of text keys alone, RFC 7049's order and RFC 8949's are the same.)"""
    return cbor2.dumps(value, canonical=True)


def entry(declaration, params=None):
    """An entry for a mechanism, by what `portcullis-launcher --mechanisms` says of it."""
    made = {
        "id": declaration["id"],
        "version": declaration["version"],
        "phase_code": declaration["phase_code"],
        "decl_digest": bytes.fromhex(declaration["decl_digest"]),
        "param_digest": blake3(canonical(params)) if params else bytes(32),
    }
    if params:
        made["params"] = params
    return made


def os_text(data):
    """Text where it is UTF-8, bytes where it is not."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def frame(body):
    encoded = canonical(body)
    return b"BVZLNCH1" + struct.pack("<HI", 2, len(encoded)) + blake3(encoded) + encoded


def sealed(data):
    fd = os.memfd_create("plan", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.pwrite(fd, data, 0)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def launch(launcher, argv):
    known = json.loads(subprocess.run([launcher, "--mechanisms"], check=True, capture_output=True).stdout)
    declared = {declaration["id"]: declaration for declaration in known}
    # A slot is the number at which the launcher finds the fd; high ones collide with none of ours.
    slots, table = 100, []

    def slot(path, role, kind):
        number = slots + len(table)
        os.dup2(os.open(path, os.O_PATH | os.O_CLOEXEC), number, inheritable=True)
        table.append({"slot_index": number, "role": role, "expected": {"kind": kind, "writable": False}})
        return number

    executable = slot(argv[0], "TargetExe", "Regular")
    roots = [root for root in ("/usr", "/bin", "/lib", "/lib64") if os.path.isdir(root)]
    rules = [{"slot": slot(root, "ReadRoot", "Directory"), "access": ["read", "exec"]} for root in roots]
    entries = [
        entry(declared["linux.ambient.scrub.v1"]),
        entry(declared["linux.landlock.apply.v1"], {"abi": 3, "rules": rules}),
        entry(declared["linux.seccomp.apply.v1"], {"deny_inet_sockets": True}),
        entry(declared["linux.exec.v1"]),
    ]
    plan = frame(
        {
            "attempt_id": os.urandom(32),
            "plan_id": bytes(32),
            "h_a": bytes(32),
            "h_p": bytes(32),
            "h_l": blake3(canonical({"entries": entries})),
            "lowering": {"entries": entries},
            "descriptor_table": table,
            "target": {
                "argv": [os_text(os.fsencode(argument)) for argument in argv],
                "envp": [["PATH", "/usr/bin:/bin"]],
                "exe_slot": executable,
            },
        }
    )
    control_read, control = os.pipe()
    error_read, error = os.pipe()
    channels = {
        "BVISOR_CONTROL_FD": control,
        "BVISOR_LAUNCH_PLAN_FD": sealed(plan),
        "BVISOR_ERROR_FD": error,
        "BVISOR_ERROR_READ_FD": error_read,
    }
    first = slots + len(table)
    for number, fd in enumerate(channels.values(), first):
        os.dup2(fd, number, inheritable=True)
    environment = {name: str(number) for number, name in enumerate(channels, first)}
    passed = range(slots, first + len(channels))
    process = subprocess.Popen([launcher], env=environment, pass_fds=passed)
    # Ours must go, for the control channel to end with the launcher.
    for fd in [*passed, *channels.values()]:
        os.close(fd)
    with open(control_read) as transcript:
        lines = transcript.read().splitlines()
    process.wait()
    return lines


# Golden vectors.


def body_of(written):
    """A body from a vector, in which digests are hexadecimal and bytes are {"hex": ...}."""

    def text(value):
        return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value

    entries = []
    for it in written["lowering"]:
        made = {name: it[name] for name in ("id", "version", "phase_code")}
        made["decl_digest"] = bytes.fromhex(it["decl_digest"])
        made["param_digest"] = blake3(canonical(it["params"])) if it["params"] else bytes(32)
        if it["params"]:
            made["params"] = it["params"]
        entries.append(made)
    target = written["target"]
    return {
        **{name: bytes.fromhex(written[name]) for name in ("attempt_id", "plan_id", "h_a", "h_p")},
        "h_l": blake3(canonical({"entries": entries})),
        "lowering": {"entries": entries},
        "descriptor_table": written["descriptor_table"],
        "target": {
            "argv": [text(argument) for argument in target["argv"]],
            "envp": [[text(name), text(value)] for name, value in target["envp"]],
            "exe_slot": target["exe_slot"],
        },
    }


def check(folder):
    checked = 0
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name)) as file:
            vector = json.load(file)
        body, expected = body_of(vector["body"]), vector["expected"]
        found = {
            "body": canonical(body).hex(),
            "h_l": body["h_l"].hex(),
            "param_digests": [it["param_digest"].hex() for it in body["lowering"]["entries"]],
            "frame": frame(body).hex(),
        }
        for what, value in found.items():
            if value != expected[what]:
                sys.exit(f"{name}: {what} is {value}, and should be {expected[what]}")
        checked += 1
    print(f"{checked} vectors agree")


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    if sys.argv[1] == "--check":
        return check(sys.argv[2])
    lines = launch(sys.argv[1], sys.argv[2:])
    print("\n".join(lines), file=sys.stderr)
    states = [line for line in lines if not line.startswith("# ")]
    ended = [line for line in lines if line.startswith("# workload exited code=")]
    if states[-1:] != ["ExecSucceeded"] or not ended:
        sys.exit(125)
    sys.exit(int(ended[0].partition("code=")[2]))


if __name__ == "__main__":
    main()
