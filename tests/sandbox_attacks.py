"""Hostile programs as data, by name. Each must end as wrong, in its deadline, whoever runs it and beside whatever else.

`run_attacks.py` runs them; PARENT, PORT, CANARY and LETTERBOX stand for what it prepares.
"""

from __future__ import annotations

from pathlib import Path

from repirl.types import Case, CodeTests

HERE = str(Path(__file__).resolve())
PASSWD = Path("/etc/passwd").read_text()
THIS_FILE = Path(HERE).read_text()
SECRET = "SENTINEL-" + "4711-expected-value"

# name: (program, expected value of f()); the expected value is what a successful attack would return
FUNCTION_ATTACKS: dict[str, tuple[str, object]] = {
    "fork bomb": ("import os\ndef f():\n    while True: os.fork()", None),
    "stubborn fork bomb": (
        "import os\ndef f():\n    while True:\n        try: os.fork()\n        except OSError: pass",
        None,
    ),
    "thread bomb": (
        "import threading, time\ndef f():\n    while True:\n"
        "        threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
        None,
    ),
    "memory bomb": ("def f():\n    x = []\n    while True: x.append(bytearray(10**7))", None),
    "one huge allocation": ("def f(): return len(bytearray(10**11))", 10**11),
    "disk filler": (
        "import os\ndef f():\n    n = 0\n    while True:\n        with open(f'{n}', 'wb') as h: h.write(b'x' * 10**6)\n"
        "        n += 1",
        None,
    ),
    "one huge file": ("def f():\n    with open('x', 'wb') as h:\n        while True: h.write(b'x' * 10**6)", None),
    "folders without end": (
        "import os\ndef f():\n    while True:\n        os.mkdir('d'); os.chdir('d')",
        None,
    ),
    "unreadable folders": (
        "import os\ndef f():\n    os.makedirs('a/b/c'); open('a/b/c/x', 'w').close()\n"
        "    for d in ('a/b/c', 'a/b', 'a'): os.chmod(d, 0)\n    return 2",
        1,
    ),
    "endless loop": ("def f():\n    while True: pass", None),
    "endless loop on load": ("while True: pass", None),
    "endless sleep": ("import time\ndef f(): time.sleep(1000)", None),
    "catching everything": (
        "def f():\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass",
        None,
    ),
    "ignoring signals": (
        "import signal\ndef f():\n    for s in (signal.SIGTERM, signal.SIGXCPU): signal.signal(s, signal.SIG_IGN)\n"
        "    while True: pass",
        None,
    ),
    "raising the limits": (
        "import resource\ndef f():\n    resource.setrlimit(resource.RLIMIT_AS, (-1, -1)); return len(bytearray(10**9))",
        10**9,
    ),
    "huge result": ("def f(): return 'x' * 10**8", None),
    "endless printing": ("def f():\n    while True: print('x' * 10**6)", None),
    "endless frames": ("import os\ndef f():\n    while True: os.write(3, b'[\"value\", 1]\\n' * 10**4)", None),
    "huge integer": ("def f(): return 10 ** (10 ** 9)", 0),
    "long integer as text": ("import sys\nsys.set_int_max_str_digits(0)\ndef f(): return str(7 ** 10**7)", "7"),
    "deep recursion": ("import sys\nsys.setrecursionlimit(10**9)\ndef f(n=0): return f(n + 1)", 0),
    "deep native recursion": (
        "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n    def __repr__(self): return repr([self])\n"
        "def f(): return repr(A())",
        0,
    ),
    "deep result": ("def f():\n    x = []\n    for _ in range(10**5): x = [x]\n    return x", []),
    "result that holds itself": ("def f():\n    x = []; x.append(x)\n    return x", [[]]),
    "hand-written deep frame": ("import os\ndef f():\n    os.write(3, b'[' * 10**6 + b'\\n'); os._exit(0)", []),
    "catastrophic regex": ("import re\ndef f(): return bool(re.match('(a+)+$', 'a' * 60 + 'b'))", False),
    "zip bomb": ("import zlib\ndef f():\n    z = zlib.compress(b'0' * 10**8)\n    return len(zlib.decompress(z) * 10)", 10**9),
    "reading /etc/passwd": ("def f(): return open('/etc/passwd').read()", PASSWD),
    "reading the repository": (f"def f(): return open({HERE!r}).read()", THIS_FILE),
    "reading through a link": (
        "import os\ndef f():\n    os.symlink('/etc/passwd', 'link')\n    return open('link').read()",
        PASSWD,
    ),
    "leaving by ..": ("def f(): return open('/tmp/../../../../etc/passwd').read()", PASSWD),
    "reading the environment": ("import os\ndef f(): return os.environ['SANDBOX_TEST_SECRET']", SECRET),
    "reading the native environment": (
        "import ctypes\ndef f():\n    g = ctypes.CDLL(None).getenv; g.restype = ctypes.c_char_p\n"
        "    return g(b'SANDBOX_TEST_SECRET').decode()",
        SECRET,
    ),
    "reading /proc": (
        "import os\ndef f():\n    for p in ('self', '1', str(os.getppid())):\n"
        "        s = open(f'/proc/{p}/environ', 'rb').read()\n        if b'SENTINEL' in s: return s\n    return b''",
        b"",
    ),
    "listing home": (
        "import os\ndef f(): return bool(os.listdir(os.path.expanduser('~root') + '/') or os.listdir('/home'))",
        True,
    ),
    "socket": ("import socket\ndef f():\n    socket.socket().connect(('127.0.0.1', PORT)); return 1", 1),
    "unix socket": ("import socket\ndef f(): return socket.socket(socket.AF_UNIX) is not None", True),
    "name lookup": ("import socket\ndef f(): return bool(socket.getaddrinfo('localhost', 80))", True),
    "killing the parent": (
        "import os\ndef f():\n    for p in (os.getppid(), 1, PARENT, -1):\n        try: os.kill(p, 9)\n"
        "        except OSError: pass\n    return 2",
        1,
    ),
    "signal through a descriptor": (
        "import fcntl, os\ndef f():\n    r, w = os.pipe()\n    fcntl.fcntl(r, 10, 9)\n"
        "    fcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())\n    return 1",
        1,
    ),
    "slowing the server": ("import os\ndef f():\n    os.setpriority(os.PRIO_PROCESS, os.getppid(), 19); return 1", 1),
    "limiting the server": (
        "import os, resource\ndef f():\n    resource.prlimit(os.getppid(), resource.RLIMIT_NPROC, (0, 0)); return 1",
        1,
    ),
    "ptrace": ("import ctypes, os\ndef f(): return ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)", 0),
    "reading memory of others": (
        "import ctypes, os\ndef f(): return ctypes.CDLL(None).syscall(310, os.getppid(), 0, 0, 0, 0, 0)",
        0,
    ),
    "new namespace": ("import ctypes\ndef f(): return ctypes.CDLL(None).unshare(0x10000000)", 0),
    "mount": ("import ctypes\ndef f(): return ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, None)", 0),
    "remount writable": ("import ctypes\ndef f(): return ctypes.CDLL(None).mount(None, b'/', None, 32, None)", 0),
    "becoming root": ("import os\ndef f():\n    os.setuid(0); os.setgroups([]); return os.getuid()", 0),
    "starting a program": ("import subprocess\ndef f(): return subprocess.run(['/bin/true']).returncode", 0),
    "system": ("import os\ndef f(): return os.system('true')", 0),
    "unknown system call": ("import ctypes\ndef f(): return ctypes.CDLL(None).syscall(9999)", 0),
    "daemon": (
        "import os, time\ndef f():\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0: time.sleep(600)\n"
        "    return 1",
        1,
    ),
    "threads that stay": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\ndef f(): return 2",
        1,
    ),
    "writing outside": ("def f():\n    open(CANARY, 'w').write('x'); return 1", 1),
    "deleting everything": (
        "import os\ndef f():\n    for top, dirs, files in os.walk('/', topdown=False):\n"
        "        for name in files + dirs:\n            try: os.remove(os.path.join(top, name))\n"
        "            except OSError: pass\n    return 2",
        1,
    ),
    "poisoning the standard library": (
        "import os\ndef f():\n    open(os.path.join(os.path.dirname(os.__file__), 'this.py'), 'a').write('#'); return 1",
        1,
    ),
    "equal to everything": (
        "class E:\n    def __eq__(self, o): return True\n    def __hash__(self): return 0\ndef f(): return E()",
        SECRET,
    ),
    "int equal to everything": ("class E(int):\n    def __eq__(self, o): return True\ndef f(): return E(3)", 4),
    "str equal to everything": ("class E(str):\n    def __eq__(self, o): return True\ndef f(): return E('a')", "b"),
    "list equal to everything": (
        "class E(list):\n    def __eq__(self, o): return True\n    def __len__(self): return 3\ndef f(): return E()",
        [1, 2, 3],
    ),
    "exit(0)": ("import sys\ndef f(): sys.exit(0)", None),
    "exit(0) on load": ("exit(0)", None),
    "_exit(0)": ("import os\ndef f(): os._exit(0)", None),
    "printing success": ("def f(): print('passed'); print('[\"value\", 1]'); return 2", 1),
    "hand-written frames": ('import os\ndef f():\n    os.write(3, b\'["pass"]\\n["value", true]\\n\' * 9); return 2', 1),
    "one frame too many": ("import os\ndef f():\n    os.write(3, b'[\"value\", 1]\\n'); return 1", 1),
    "rewriting builtins": (
        "import builtins, json, sys\nbuiltins.len = builtins.isinstance = lambda *a: True\n"
        "json.dumps = lambda *a, **k: '[\"value\", true]'\n"
        "for m in list(sys.modules.values()):\n    for k in ('encode', 'matches', 'say'):\n"
        "        if hasattr(m, k): setattr(m, k, lambda *a, **k: True)\ndef f(): return 2",
        SECRET,
    ),
    "emptying sys.modules": ("import sys\nsys.modules.clear()\ndef f(): return 2", 1),
    "searching frames and objects": (
        "import gc, sys\ndef f():\n    seen = [str(o) for o in gc.get_objects() if 'SENTI' 'NEL' in repr(o)[:10**5]]\n"
        "    frame = sys._getframe()\n    while frame:\n        seen += [str(v) for v in frame.f_locals.values()]\n"
        "        frame = frame.f_back\n    for s in seen:\n        i = s.find('SENTI' 'NEL-4')\n"
        "        if i >= 0: return s[i:i + 28]\n    return ''",
        SECRET,
    ),
    "exception that lies": (
        "class E(BaseException):\n    def __str__(self): return 'passed'\nE.__name__ = 'value'\ndef f(): raise E",
        None,
    ),
    "closing all descriptors": ("import os\nos.closerange(0, 100)\ndef f(): return 1", 1),
    "no way to exit": ("import os, sys\nos._exit = os.kill = sys.exit = lambda *a: None\ndef f(): return 2", 1),
    "killing itself": ("import os\ndef f(): os.kill(os.getpid(), 9)", None),
    "segmentation fault": ("import ctypes\ndef f(): return ctypes.string_at(0)", 0),
    "colliding keys": ("def f(): return {i * (2**61 - 1): 0 for i in range(60000)}", {0: 0}),
    "os._exit in a thread": (
        "import os, threading\ndef f():\n    t = threading.Thread(target=os._exit, args=(0,))\n"
        "    t.start(); t.join(); return 2",
        1,
    ),
    "frames at exit": (
        "import atexit, os\natexit.register(lambda: os.write(3, b'[\"value\", 1]\\n'))\ndef f(): raise SystemExit(0)",
        1,
    ),
    "frames from a destructor": (
        "import os\nclass D:\n    def __del__(self): os.write(3, b'[\"value\", 1]\\n')\ndef f():\n    D(); return 2",
        1,
    ),
    "tracing the harness": (
        "import sys\nseen = []\n"
        "def trace(frame, event, arg):\n    seen.append(repr(frame.f_locals)[:10**5])\n    return trace\n"
        "sys.settrace(trace); sys.setprofile(trace)\n"
        "def f():\n    text = ''.join(seen); i = text.find('SENTI' 'NEL-4'); return text[i:i + 28]",
        SECRET,
    ),
    "rewriting the harness's code": (
        "import sys\nframe = sys._getframe()\nwhile frame.f_back:\n    frame = frame.f_back\n"
        "    for name, value in list(frame.f_globals.items()):\n        if callable(value) and hasattr(value, '__code__'):\n"
        "            try: value.__code__ = (lambda *a, **k: b'[\"value\", 1]\\n').__code__\n"
        "            except ValueError: pass\ndef f(): return 2",
        SECRET,
    ),
    "patched json, pickle, marshal and struct": (
        "import json, marshal, pickle, struct\nfor m in (json, marshal, pickle, struct):\n"
        "    for n in dir(m):\n        if n.startswith(('dump', 'load', 'pack', 'unpack')): "
        "setattr(m, n, lambda *a, **k: '[\"value\", 1]')\n"
        "def f(): return 2",
        SECRET,
    ),
    "reading inherited descriptors": (
        "import os\ndef f():\n    found = b''\n    for fd in range(64):\n        try:\n            os.set_blocking(fd, False)\n"
        "            found += os.read(fd, 10**5)\n        except OSError: pass\n"
        "    i = found.find(b'SENTI' b'NEL-4'); return found[i:i + 28].decode()",
        SECRET,
    ),
    "reading through /dev/fd": (
        "import os\ndef f(): return ''.join(open(f'/dev/fd/{n}').read(1000) for n in os.listdir('/dev/fd'))",
        SECRET,
    ),
    "swapping the conversation for a pipe": (
        "import os\nr, w = os.pipe()\nos.dup2(w, 3)\ndef f(): return 1",
        1,
    ),
    "signal storm": (
        "import signal\ndef f():\n    signal.signal(signal.SIGALRM, lambda *a: None)\n"
        "    signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)\n    while True: pass",
        None,
    ),
    "stopping itself": ("import os, signal\ndef f(): os.kill(os.getpid(), signal.SIGSTOP)", None),
    "killing its process group": (
        "import os\ndef f():\n"
        "    for kill in (lambda: os.kill(0, 9), lambda: os.killpg(os.getpgid(0), 9), lambda: os.kill(-1, 9)):\n"
        "        try: kill()\n        except OSError: pass\n    return 2",
        1,
    ),
    "clone by number": (
        "import ctypes\ndef f():\n    pid = ctypes.CDLL(None).syscall(56, 17, 0, 0, 0, 0)\n"
        "    if pid == 0:\n        while True: pass\n    return pid > 0",
        True,
    ),
    "vfork by number": ("import ctypes\ndef f(): return ctypes.CDLL(None).syscall(58) > 0", True),
    "posix_spawn": ("import os\ndef f(): return os.posix_spawn('/bin/true', ['true'], {}) > 0", True),
    "terminal fork": ("import pty\ndef f(): return pty.fork()[0] > 0", True),
    "multiprocessing": (
        "import multiprocessing\ndef f():\n    with multiprocessing.get_context('fork').Pool(2) as p: return p.map(abs, [-1])",
        [1],
    ),
    "running a file from memory": (
        "import os\ndef f():\n    fd = os.memfd_create('x'); os.write(fd, b'#!/bin/true'); os.execve(fd, ['x'], {})",
        None,
    ),
    "running a file of its own": (
        "import os\ndef f():\n    open('x', 'w').write('#!/bin/true'); os.chmod('x', 0o755); os.execv('./x', ['x'])",
        None,
    ),
    "exotic system calls": (
        "import ctypes\ndef f():\n    call = ctypes.CDLL(None).syscall\n"
        "    return any(call(n, 0, 0, 0, 0, 0) >= 0 for n in\n"
        "        (321, 298, 323, 425, 248, 250, 175, 246, 169, 447, 438, 272, 308, 161))",
        True,
    ),
    "descriptor bomb": ("def f():\n    kept = []\n    while True: kept.append(open('/dev/null'))", None),
    "pipe bomb": (
        "import os\ndef f():\n    kept = []\n    while True:\n"
        "        kept.append(os.pipe()); os.set_blocking(kept[-1][1], False)\n"
        "        os.write(kept[-1][1], b'x' * 65536)",
        None,
    ),
    "shared memory": (
        "from multiprocessing.shared_memory import SharedMemory\ndef f(): return SharedMemory(create=True, size=9).size",
        9,
    ),
    "mapped memory bomb": ("import mmap\ndef f():\n    kept = []\n    while True: kept.append(mmap.mmap(-1, 1 << 24))", None),
    "deflate bomb to disk": (
        "import zipfile\ndef f():\n"
        "    with zipfile.ZipFile('z', 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('a', b'0' * 10**8)\n"
        "    zipfile.ZipFile('z').extractall('out'); return 1",
        1,
    ),
    "lzma bomb": (
        "import lzma\ndef f():\n    z = lzma.compress(b'0' * 5 * 10**7)\n"
        "    return sum(len(lzma.decompress(z)) for _ in range(10**4))",
        0,
    ),
    "long loops in C": ("def f(): return sum(range(10**12))", 0),
    "huge power": ("def f(): return pow(3, 10**10) % 10", 1),
    "huge shift": ("def f(): return (1 << 10**11) and 1", 1),
    "quadratic text": ("def f():\n    s = 'a'\n    while True: s = s.replace('a', 'ab' * 50)", None),
    "nested quantifiers": ("import re\ndef f(): return bool(re.fullmatch('((a*)*)*b', 'a' * 80))", False),
    "deadlock": ("import threading\ndef f():\n    a = threading.Lock(); a.acquire(); a.acquire()", None),
    "waiting for input": ("def f(): return input() or 1", 1),
    "debugger": ("def f():\n    breakpoint()\n    return 1", 1),
    "generator": ("def f(): return (x for x in [1])", [1]),
    "endless generator in a list subclass": (
        "class L(list):\n    def __iter__(self):\n        while True: yield 1\ndef f(): return L([2])",
        [1],
    ),
    "tuple equal to everything": ("class E(tuple):\n    def __eq__(self, o): return True\ndef f(): return E((2,))", (1,)),
    "dict equal to everything": (
        "class E(dict):\n    def __eq__(self, o): return True\n    def items(self): return [('a', 1)]\ndef f(): return E(b=2)",
        {"a": 1},
    ),
    "float equal to everything": (
        "class E(float):\n    def __eq__(self, o): return True\n    def __sub__(self, o): return 0.0\ndef f(): return E(2.0)",
        1.0,
    ),
    "set equal to everything": ("class E(set):\n    def __eq__(self, o): return True\ndef f(): return E({2})", {1}),
    "bytes equal to everything": (
        "class E(bytes):\n    def __eq__(self, o): return True\n    def hex(self): return '61'\ndef f(): return E(b'b')",
        b"a",
    ),
    "false class": (
        "class E:\n    __class__ = property(lambda self: int)\n    def __index__(self): return 1\ndef f(): return E()",
        1,
    ),
    "reduce with effects": (
        "import os\nclass E:\n    def __reduce__(self): return (os.write, (3, b'[\"value\", 1]\\n'))\ndef f(): return E()",
        1,
    ),
    "text that claims to be": (
        "class E(str):\n    def __str__(self): return 'b'\n    __repr__ = __str__\ndef f(): return E('a')",
        "b",
    ),
    "recursive repr": ("class E:\n    def __repr__(self): return repr(self) + repr(self)\ndef f(): return str(E())", ""),
    "exception with a long name": ("E = type('x' * 10**7, (Exception,), {})\ndef f(): raise E", None),
    "deeply nested source": ("x = " + "(" * 5000 + "1" + ")" * 5000 + "\ndef f(): return 1", 1),
    "null bytes in the source": ("def f(): return 1\x00", 1),
    "long source": ("x = [" + "1," * 400_000 + "]\ndef f(): return 2", 1),
    "link to the root": ("import os\ndef f():\n    os.symlink('/proc/1/root', 'r'); return bool(os.listdir('r'))", True),
    "links in a circle": ("import os\ndef f():\n    os.symlink('b', 'a'); os.symlink('a', 'b'); return open('a').read()", ""),
    "hard link outside": ("import os\ndef f():\n    os.link('/etc/passwd', 'p'); return bool(open('p').read())", True),
    "renaming the scratch folder": ("import os\ndef f():\n    os.rename(os.getcwd(), '/elsewhere'); return 1", 1),
    "link in place of the scratch folder": (
        "import os\ndef f():\n    here = os.getcwd(); os.chdir('/'); os.rmdir(here); os.symlink('/usr', here); return 1",
        1,
    ),
    "leaving by a descriptor of the root": (
        "import os\ndef f():\n    fd = os.open('/', os.O_RDONLY); os.chdir('/tmp'); os.chroot('.'); os.fchdir(fd); return 1",
        1,
    ),
    "device nodes": ("import os, stat\ndef f():\n    os.mknod('d', 0o600 | stat.S_IFBLK, os.makedev(8, 0)); return 1", 1),
    "abort": ("import os\ndef f(): os.abort()", None),
    "freeing what is in use": (
        "import ctypes\ndef f():\n    ctypes.memset(id(f), 0, 64); return f",
        0,
    ),
    "no right to the folder": ("import os\ndef f(): os.chmod('.', 0); return 2", 1),
    "no right to the folder, by its path": (
        "import os\nhere = os.getcwd()\ndef f(): os.chmod(here, 0); os.chmod('/', 0); return 2",
        1,
    ),
    "read-only folder": ("import os\ndef f(): os.chmod('.', 0o555); return 2", 1),
    "deep folders without rights": (
        "import os\ndef f():\n    for _ in range(1900):\n        os.mkdir('d'); os.chdir('d'); os.chmod('..', 0)\n    return 2",
        1,
    ),
    "folders deeper than a path is long": (
        "import os\ndef f():\n    name = 'n' * 255\n    for _ in range(1900):\n"
        "        os.mkdir(name); os.chdir(name)\n    return 2",
        1,
    ),
    "wide and deep": (
        "import os\ndef f():\n    for _ in range(60):\n        for n in range(30): open(str(n), 'w').close()\n"
        "        os.mkdir('d', 0o300); os.chdir('d')\n    return 2",
        1,
    ),
    "names that are not text": (
        "import os\ndef f():\n    for name in (b'\\xff', b'\\xed\\xa0\\x80', b'\\n', b'-rf', b'\\x80' * 255):\n"
        "        os.mkdir(name); open(name + b'/' + name, 'w').close(); os.chmod(name, 0)\n    return 2",
        1,
    ),
    "files without end": (
        "def f():\n    n = 0\n    while True:\n        open(str(n), 'w').close(); n += 1",
        None,
    ),
    "hard links without end": (
        "import os\ndef f():\n    open('x', 'w').close(); n = 0\n    while True:\n        os.link('x', str(n)); n += 1",
        None,
    ),
    "moving folders into each other": (
        "import os\ndef f():\n    os.makedirs('a/b'); os.chdir('a/b'); os.mkdir('/tmp/c'); os.rename('/tmp/a', '/tmp/c/a')\n"
        "    for d in ('/tmp/c/a/b', '/tmp/c/a', '/tmp/c', '/tmp'): os.chmod(d, 0)\n    return 2",
        1,
    ),
    "links where folders were": (
        "import os\ndef f():\n"
        "    for n, to in enumerate(('/', '/tmp', '.', '..', 'l0', '/usr/lib', '/nowhere')): os.symlink(to, f'l{n}')\n"
        "    return 2",
        1,
    ),
    "pipes and sockets in the folder": (
        "import os, socket\ndef f():\n    os.mkfifo('p'); return 1",
        1,
    ),
    "sparse files": (
        "def f():\n    for n in range(1000):\n"
        "        with open(str(n), 'wb') as h: h.truncate(1 << 24); h.seek((1 << 24) - 1); h.write(b'x')\n    return 2",
        1,
    ),
    "rights by default for what comes next": (
        "import os\ndef f():\n    os.setxattr('.', 'system.posix_acl_default', bytes.fromhex("
        "'02000000' '01000000ffffffff' '04000000ffffffff' '20000000ffffffff')); return 1",
        1,
    ),
    "attributes of the folder": (
        "import fcntl, os\ndef f():\n    fd = os.open('.', os.O_RDONLY)\n"
        "    fcntl.ioctl(fd, 0x40086602, (0x30).to_bytes(8, 'little')); return 1",
        1,
    ),
    "a word for the next one": ("import os\ndef f():\n    os.setxattr('.', 'user.word', b'x'); return 1", 1),
    "mapped files of a full folder": (
        "import mmap\ndef f():\n    kept = []\n    for n in range(100):\n        h = open(str(n), 'w+b'); h.truncate(1 << 20)\n"
        "        kept.append(mmap.mmap(h.fileno(), 1 << 20)); kept[-1][:] = b'x' * (1 << 20)\n    return 2",
        1,
    ),
    "stopping everybody": (
        "import os, signal\ndef f():\n    for pid in (os.getppid(), 1, 0, -1, *range(2, 300)):\n"
        "        if pid != os.getpid():\n            try: os.kill(pid, signal.SIGSTOP)\n"
        "            except OSError: pass\n    return 2",
        1,
    ),
    "the first thread alone ends": (
        "import ctypes, threading\ndef spin():\n    while True: pass\n"
        "def f():\n    threading.Thread(target=spin, daemon=True).start(); ctypes.CDLL(None).syscall(60, 0)",
        None,
    ),
    "the first thread alone ends, the rest sleeps": (
        "import ctypes, threading, time\n"
        "def f():\n    threading.Thread(target=time.sleep, args=(600,)).start(); ctypes.PyDLL(None).syscall(60, 0)",
        None,
    ),
    "a time for the next one": ("import os\ndef f(): os.utime('.', (1, 1)); return 2", 1),
    "instances of inotify": (
        "import ctypes\ndef f():\n    while ctypes.CDLL(None).inotify_init() >= 0: pass\n    return 2",
        1,
    ),
    "shutting the conversation down": (
        "import socket\ndef f():\n    s = socket.socket(fileno=3); s.shutdown(socket.SHUT_RDWR); return 1",
        1,
    ),
    "out of band": (
        "import socket, time\ndef f():\n"
        "    s = socket.socket(fileno=3); s.send(b'x', socket.MSG_OOB); time.sleep(0.1); return 1",
        1,
    ),
    "garbage on every descriptor": (
        "import os\ndef f():\n    for fd in range(300):\n        try: os.write(fd, b'{\"exit\": 0}\\xff\\x00\\n')\n"
        "        except OSError: pass\n    return 1",
        1,
    ),
    "descriptors to the grader": (
        "import array, os, socket\ndef f():\n    s = socket.socket(fileno=3)\n"
        "    s.sendmsg([b'[\"value\", 1]\\n'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [0] * 50))])\n"
        "    s.detach(); return 1",
        1,
    ),
    "forged answers of the server": (
        "import os\ndef f():\n"
        '    packet = b\'{"exit": 0, "signal": 0, "cpu_s": 0, "timed_out": false, "spent": true}\'\n'
        "    for fd in range(4, 1024):\n        try: os.write(fd, packet); return 1\n"
        "        except OSError: pass\n    return 2",
        1,
    ),
    "forged fault": (
        'import os\ndef f():\n    os.write(3, b\'{"fault": "x"}\\n["fault", 1]\\n'
        '["stop", "NotSendable", "x"]\\n\'); os._exit(0)',
        1,
    ),
    "frames that are no frames": (
        'import os\ndef f():\n    os.write(3, b\'["raise", {"a": [1]}]\\n["raise"]\\n["value"]\\n'
        '["load", null]\\n\'); os._exit(0)',
        1,
    ),
    "exit codes of the sandbox": ("import os\ndef f(): os._exit(113)", None),
    "exceptions from everywhere": (
        "class M(type):\n    @property\n    def __name__(cls): raise E\n"
        "class E(BaseException, metaclass=M):\n    def __repr__(self): raise self\n    __str__ = __repr__\ndef f(): raise E",
        None,
    ),
    "exception whose name hangs": (
        "class M(type):\n    @property\n    def __name__(cls):\n        while True: pass\n"
        "class E(BaseException, metaclass=M): pass\ndef f(): raise E",
        None,
    ),
    "exception whose name is no text": (
        "class M(type):\n    __name__ = property(lambda cls: [b'x'])\nclass E(Exception, metaclass=M): pass\ndef f(): raise E",
        None,
    ),
    "half a character": ("def f(): return '\\ud800' * 1000", "\ufffd"),
    "half a character printed": (
        "import os\ndef f(): print('\\udc80'); os.write(3, b'[\"raise\", \"\\\\ud800\"]\\n'); return 1",
        1,
    ),
    "value instead of a complex number": ("def f(): return (1,)", 1j),
    "dict instead of a complex number": (
        'import os\ndef f(): os.write(3, b\'["value", ["c", [], {}]]\\n\'); os._exit(0)',
        1j,
    ),
    "lower limits for itself": (
        "import resource as r\ndef f():\n"
        "    for k in (r.RLIMIT_FSIZE, r.RLIMIT_NOFILE, r.RLIMIT_NPROC, r.RLIMIT_AS, r.RLIMIT_CPU):\n"
        "        r.setrlimit(k, (0, 0))\n    return 1",
        None,
    ),
    "audit hook that raises": (
        "import sys\ndef hook(*a): raise SystemError\nsys.addaudithook(hook)\ndef f(): return open('x')",
        None,
    ),
    "no signal ends it": (
        "import signal\ndef f():\n"
        "    for s in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}: signal.signal(s, signal.SIG_IGN)\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))\n    signal.pause()",
        None,
    ),
    "session of its own": ("import os\ndef f(): os.setsid(); os.setpgid(0, 0); return 2", 1),
    "no death with the server": ("import ctypes\ndef f(): return ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)", 0),
    "a filter of its own": (
        "import ctypes\ndef f(): ctypes.CDLL(None).prctl(22, 1, 0, 0, 0); return 1",
        None,
    ),
    "objects of System V": (
        "import ctypes\ndef f():\n    call = ctypes.CDLL(None).syscall\n"
        "    return [n for n in (29, 30, 31, 64, 65, 66, 68, 69, 70, 71, 220) if call(n, 0, 0, 2, 0, 0) >= 0] + [0]",
        [],
    ),
    "message queues": (
        "import ctypes\ndef f():\n    libc = ctypes.CDLL(None, use_errno=True)\n"
        "    libc.syscall(241, b'no such queue'); return ctypes.get_errno()",
        2,
    ),
    "letter to a named socket": (
        "import socket\ndef f():\n    s = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0]\n"
        "    s.sendto(b'x', LETTERBOX); return 1",
        1,
    ),
    "letter to a named socket by sendmsg": (
        "import socket\ndef f():\n    s = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0]\n"
        "    s.sendmsg([b'x'], [], 0, LETTERBOX); return 1",
        1,
    ),
    "pair of another family": ("import socket\ndef f(): return bool(socket.socketpair(30, socket.SOCK_STREAM))", True),
    "lease on a file": (
        "import fcntl, os\ndef f(): fcntl.fcntl(os.open(os.__file__, os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_RDLCK); return 1",
        1,
    ),
    "everything at exit": (
        "import atexit, gc, os, sys, threading, time\natexit.register(time.sleep, 600)\n"
        "threading.Thread(target=lambda: [time.sleep(600)], daemon=False).start()\n"
        "class D:\n    def __del__(self): os.chmod('.', 0)\nd = D()\n"
        "sys.excepthook = sys.unraisablehook = lambda *a: time.sleep(600)\n"
        "def f(): raise SystemExit(d)",
        1,
    ),
    "exit while a thread holds the lock": (
        "import ctypes, threading\nthreading.Thread(target=lambda: ctypes.PyDLL(None).sleep(600), daemon=True).start()\n"
        "def f(): return 2",
        1,
    ),
    "recursion in the result": (
        "class L(list): pass\ndef f():\n    a, b = L(), {}\n    a.append(b); b[1] = a; return [a] * 10**5",
        [[]],
    ),
    "integer of a million digits": ("def f(): return [10 ** 10**6] * 3", [0]),
    "dict keys out of anything": (
        'import os\ndef f(): os.write(3, b\'["value", ["d", ["d"], 1]]\\n\'); os._exit(0)',
        {1: 1},
    ),
    "set of sets": ('import os\ndef f(): os.write(3, b\'["value", ["s", ["s", ["l"]]]]\\n\'); os._exit(0)', {1}),
}

# Scripts whose standard output should be SECRET.
SCRIPT_ATTACKS = {
    "prints passed": "print('passed')",
    "exit 0": "raise SystemExit(0)",
    "_exit 0": "import os\nos._exit(0)",
    "exit with a number of its own": "class I(int):\n    def __and__(self, other): return 'x'\nraise SystemExit(I(5))",
    "exit with a text that hangs": "class T:\n    def __str__(self):\n        while True: pass\nraise SystemExit(T())",
    "no way to exit": "import os, sys\nos._exit = sys.exit = lambda *a: None\nprint('x')",
    "streams of its own": "import sys\nsys.stdout = sys.__stdout__ = sys.stderr = None\nsys.stdin = 5\nprint(input())",
    "conversation for output": "import os\nos.dup2(3, 1)\nprint('passed')",
    "frames": 'import os\nos.write(3, b\'["end"]\\n["value", true]\\n\')',
    "searches": "import gc\nfor o in gc.get_objects():\n    s = repr(o)[:10**5]\n    i = s.find('SENTI' 'NEL-4')\n"
    "    if i >= 0:\n        print(s[i:i + 28]); break",
    "reads descriptors": "import os\nfor fd in range(40):\n"
    "    try: print(os.pread(fd, 10**4, 0).decode())\n    except OSError: pass",
    "prints the input": "print(input())",
    "closes stdout": "import os\nos.close(1)",
    "stays": "import time, threading\nthreading.Thread(target=time.sleep, args=(600,)).start()\nprint('x')",
}

ASSERTS = f"assert f(1) == {SECRET!r}\nassert f([1]) is not None and f([1]) == {SECRET!r}\n"
ASSERT_ATTACKS = {
    "equal to everything": "class E:\n    def __eq__(self, o): return True\ndef f(n): return E()",
    "exit": "import os\ndef f(n): os._exit(0)",
    "exit on load": "raise SystemExit(0)",
    "frames to the grader": "import os\ndef f(n):\n    for fd in range(3, 20):\n"
    "        try: os.write(fd, b'[\"pass\"]\\n' * 9)\n        except OSError: pass\n    os._exit(0)",
    "own builtins": "import builtins\nbuiltins.AssertionError = Exception\nbuiltins.str = lambda *a: 'x'\ndef f(n): return 1",
    "searching": FUNCTION_ATTACKS["searching frames and objects"][0].replace("def f()", "def f(n)"),
    "searching through the peer": "import os\ndef f(n):\n    return os.read(3, 10**5).decode()",
    "endless": "def f(n):\n    while True: pass",
    "handle of another": "def f(n): return f",
    "proxy": "class P:\n    def __getattr__(self, n): return lambda *a: True\ndef f(n): return P()",
    "answers of its own": "import os, struct\ndef f(x):\n    for _ in range(9):\n"
    '        b = b\'["ok", ["n", "str"], {}]\'; os.write(3, struct.pack(\'!I\', len(b)) + b)\n    return 1',
    "endless answer": "import os, struct\ndef f(x):\n    os.write(3, struct.pack('!I', 2**32 - 1))\n"
    "    while True: os.write(3, b'x' * 65536)",
    "deep answer": "import os, struct\ndef f(x):\n    b = b'[' * 10**6\n"
    "    os.write(3, struct.pack('!I', len(b)) + b); os._exit(0)",
    "colliding answer": "def f(x): return {i * (2**61 - 1) for i in range(60000)}",
    "raises AssertionError": "def f(x): raise AssertionError('passed')",
    "raises StopIteration": "def f(x): raise StopIteration",
    "raises SystemExit": "def f(x): raise SystemExit(0)",
    "own str": "class E(str):\n    def __eq__(self, o): return True\n    def __ne__(self, o): return False\n"
    "def f(x): return E('a')",
    "own f": "class F:\n    def __call__(self, x): return self\n    def __eq__(self, o): return True\nf = F()",
    "changes the argument": "def f(x):\n    if isinstance(x, list): x[:] = [f] * 9\n    return x",
    "names of the tests": "assert_ = True\n__name__ = 'tests'\nimport sys\nsys.modules['tests'] = 1\ndef f(x): return 1",
}

# Programs that would rather not be graded, by a fault that looks like one of the tests. name: (tests, program)
ESCAPES = {
    "iterator without end, by hand": (
        "assert f(f(1)) == 7",
        "import os, struct\ndef f(x):\n    b = b'[\"ok\", [\"it\"' + b', 1' * 1000001 + b'], {}]'\n"
        "    b = struct.pack('!I', len(b)) + b\n    while b: b = b[os.write(3, b):]",
    ),
    "range without end": ("assert f(iter(f(1))) == 7", "def f(x): return range(10**9)"),
    "range without end, mapped": ("assert f(map(str, f(1))) == 7", "def f(x): return range(10**9)"),
    "deque for a list": ("assert f(iter(f(1))) == 7", "from collections import deque\ndef f(x): return deque([1])"),
    "type that cannot be sent": ("assert f(type(f(1))) == 7", "def f(x): return {}.keys()"),
    "method that cannot be sent": ("assert f(f(1).append) == 7", "def f(x): return []"),
    "module that is missing": ("import json\nassert f(1) == 7", "def f(x): raise ModuleNotFoundError(name='numpy')"),
    "nothing to test": (
        "for x in (1, 2):\n    try: y = f(x)\n    except Exception: continue\n    assert y == x",
        "pass",
    ),
    "nothing but an exception": (
        "for x in (1, 2):\n    try: y = f(x)\n    except Exception: continue\n    assert y == x",
        "def f(x): raise ValueError",
    ),
}

# Those that end with a limit of time; the others take some hundredths of a second.
SLOW = frozenset(
    [
        "asserts: colliding answer", "asserts: endless", "asserts: searching through the peer", "catastrophic regex",
        "catching everything", "colliding keys", "deadlock", "deep native recursion", "deep recursion", "endless loop",
        "endless loop on load", "endless printing", "endless sleep", "exception whose name hangs",
        "exit while a thread holds the lock", "huge integer", "huge power", "ignoring signals", "long integer as text",
        "long loops in C", "lzma bomb", "nested quantifiers", "no signal ends it", "script: stays", "signal storm",
        "stopping itself", "stubborn fork bomb", "the first thread alone ends", "the first thread alone ends, the rest sleeps",
    ]
)  # fmt: skip
# Those that only read, which level weak does not prevent on a kernel without Landlock.
READING = frozenset(
    [
        "reading /etc/passwd", "reading the repository", "reading through a link", "leaving by ..", "listing home",
        "reading /proc", "link to the root",
    ]
)  # fmt: skip

# What must stay right beside all that; `files` only where a program has a folder of its own. name: (tests, program)
NEIGHBOURS = {
    "plain": (CodeTests("functional", "f", (Case((2, 3), 5), Case((0, 0), 0))), "def f(a, b): return a + b"),
    "files": (
        CodeTests("functional", "f", (Case(expected=[[], "x\n", ["d", "n"]]),)),
        "import os\ndef f():\n    found = os.listdir('.') + [1] * (os.stat('.').st_mtime < 2)\n"
        "    with open('n', 'w') as h: print('x', file=h)\n"
        "    os.mkdir('d')\n    return [found, open('n').read(), sorted(os.listdir('.'))]",
    ),
    "threads": (
        CodeTests("functional", "f", (Case((list(range(20)),), 190),)),
        "from concurrent.futures import ThreadPoolExecutor\ndef f(xs):\n"
        "    with ThreadPoolExecutor(4) as pool: return sum(pool.map(int, xs))",
    ),
    "asyncio": (
        CodeTests("functional", "f", (Case((3,), 6),)),
        "import asyncio\ndef f(n):\n    async def double():\n        await asyncio.sleep(0.001)\n"
        "        return await asyncio.to_thread(lambda: 2 * n)\n    return asyncio.run(double())",
    ),
    "script": (CodeTests("stdio", cases=(Case(stdin="2 3\n", stdout="5\n"),)), "print(sum(map(int, input().split())))"),
    "asserts": (CodeTests("asserts", code="assert f([3, 1]) == [1, 3]\nassert f([]) == []"), "def f(xs): return sorted(xs)"),
}


def attacks() -> dict[str, tuple[CodeTests, str]]:
    """All of the above, each with its tests."""
    table = {n: (CodeTests("functional", "f", (Case(expected=x),)), p) for n, (p, x) in FUNCTION_ATTACKS.items()}
    script = CodeTests("stdio", cases=(Case(stdin="2\n", stdout=SECRET + "\n"),))
    table |= {f"script: {name}": (script, program) for name, program in SCRIPT_ATTACKS.items()}
    asserts = CodeTests("asserts", code=ASSERTS)
    table |= {f"asserts: {name}": (asserts, program) for name, program in ASSERT_ATTACKS.items()}
    return table | {f"escape: {name}": (CodeTests("asserts", code=tests), p) for name, (tests, p) in ESCAPES.items()}
