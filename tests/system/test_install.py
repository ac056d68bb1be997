# SPDX-License-Identifier: MPL-2.0
"""What `cmake --install` leaves is enough to build and run a program with a hub inside."""

import os
import re
import subprocess

import harness
import pytest

PROGRAM = r"""
#include <muster.h>
#include <stdio.h>

int
main(int argc, char **argv)
{
    struct muster_hub_settings settings = {.data = argv[1], .listen = "127.0.0.1:0", .log_fd = 2};
    char problem[512];
    struct muster_hub *hub = muster_hub_start(&settings, problem, sizeof problem, NULL);

    if (argc != 2 || hub == NULL) {
        fprintf(stderr, "%s\n", problem);
        return 1;
    }
    printf("%s %s %s\n", muster_version(), muster_hub_url(hub), muster_hub_first_team(hub));
    muster_hub_stop(&hub);
    return hub != NULL;
}
"""


@pytest.mark.parametrize("linked", ["shared", "static"])
def test_an_installed_library_runs_a_hub_in_another_program(tmp_path, linked):
    build = harness.binary().resolve().parent
    prefix = tmp_path / "prefix"
    source = tmp_path / "program.c"
    program = tmp_path / "program"

    subprocess.run(["cmake", "--install", build, "--prefix", prefix], check=True, capture_output=True)
    found = [str(path.parent) for path in prefix.rglob("muster.pc")]
    assert found, "no pkg-config file was installed"
    env = {**os.environ, "PKG_CONFIG_PATH": found[0]}
    source.write_text(PROGRAM)
    ask = ["pkg-config", "--cflags", "--libs", "muster"] + (["--static"] if linked == "static" else [])
    flags = subprocess.run(ask, check=True, capture_output=True, text=True, env=env).stdout.split()
    library = next(prefix.rglob("libmuster.so")).parent
    if linked == "static":
        flags = [str(library / "libmuster.a") if flag == "-lmuster" else flag for flag in flags]
    if "asan" in build.name:
        flags.append("-fsanitize=address,undefined")
    subprocess.run(["cc", "-Wall", "-Wextra", "-Werror", "-o", program, source, *flags], check=True)
    ran = subprocess.run(
        [program, tmp_path / "data"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "LD_LIBRARY_PATH": str(library)},
    )
    assert ran.returncode == 0, ran.stderr
    version, url, team = ran.stdout.split()
    assert url.startswith("http://127.0.0.1:") and team == "echo" and version


def test_the_shared_library_exports_only_its_interface():
    library = harness.binary().resolve().parent / "libmuster.so"
    symbols = subprocess.run(
        ["nm", "--dynamic", "--defined-only", library], check=True, capture_output=True, text=True
    ).stdout
    names = {line.split()[-1] for line in symbols.splitlines()}
    header = (harness.ROOT / "api" / "muster.h").read_text()
    declared = set(re.findall(r"^MUSTER_API [^(;]*?(\w+)\(", header, re.M))
    foreign = {name for name in names if not name.startswith("_")} - declared
    assert not foreign, foreign
    assert declared <= names and "muster_hub_start" in names
