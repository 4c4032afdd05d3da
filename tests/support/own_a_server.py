"""A program that owns an embedded server until its standard input ends. Its argument is the user to become first."""

import os
import pwd
import sys

from pushq.local.server import EmbeddedServer

if len(sys.argv) > 1:
    account = pwd.getpwnam(sys.argv[1])
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)

with EmbeddedServer() as server:
    sys.stdout.write(f"{server.process.pid} {server.directory} {server.url()}\n")
    sys.stdout.flush()
    sys.stdin.read()
