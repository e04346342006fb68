package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// box begins a stage on busybox, stage one that is called s.
const (
	box   = "FROM REGISTRY/busybox:1\n"
	stage = "FROM REGISTRY/busybox:1 AS s\n"
)

// hostiles returns all cases of TestHostile.
func hostiles(t *testing.T) []hostile {
	t.Helper()
	return slices.Concat(hostileMounts(), hostileDockerfiles(), hostileBases(), hostileContexts(), hostileArchives(),
		hostileSteps(t))
}

// hostileMounts returns Dockerfiles whose mounts lead to the host.
func hostileMounts() []hostile {
	return []hostile{
		{name: "CVE-2024-23651 source of a cache mount is a link",
			files: one(box + "RUN ln -s CANARY /link && mkdir /real && ln -s CANARY/secret /real/f\n" + box +
				"RUN --mount=type=cache,from=0,source=/link,target=/c true\n"), fails: "0"},
		{name: "CVE-2024-23651 seed of a cache mount is a link",
			files: one(stage + "RUN mkdir /real && ln -s CANARY /real/d && ln -s CANARY/secret /real/f\n" + box +
				"RUN --mount=type=cache,from=s,source=/real,target=/c " +
				"echo x >/c/mine; cat /c/d/inner /c/f >/seen || true\n")},
		{name: "CVE-2024-23652 parent of a mountpoint becomes a link", files: one(box +
			"RUN --mount=type=tmpfs,target=/a/b/secret mv /a /z 2>/dev/null; umount /a/b/secret 2>/dev/null; " +
			"rm -rf /a 2>/dev/null; ln -s CANARY /a 2>/dev/null || true\n" +
			"RUN --mount=type=secret,id=none,target=/x/secret " +
			"mkdir -p /x && rm -rf /x && ln -s CANARY /x && ls /x/ >/seen 2>&1 || true\n")},
		{name: "CVE-2024-23652 step removes all of its root",
			files: one(box + "RUN --mount=type=cache,target=/k/l/m ln -s CANARY /e && " +
				"rm -rf /k /home /tmp /e/ 2>/dev/null || true\n")},
		{name: "CVE-2024-1753 bind of a link",
			files: one(stage + "RUN ln -s CANARY /link && ln -s ../../../../../../../../CANARY /up\n" + box +
				"RUN --mount=type=bind,from=s,source=/link,target=/m,rw echo x >/m/secret; cat /m/secret >/seen\n"),
			fails: "CANARY"},
		{name: "CVE-2024-1753 bind from scratch with a link below",
			files: one(stage + "RUN mkdir /d && ln -s CANARY /d/link\n" + box +
				"RUN --mount=type=bind,from=s,source=/d,target=/m,rw " +
				"echo x >/m/link/secret; cat /m/link/secret >/seen; true\n")},
		{name: "CVE-2024-9407 raw mount options",
			files: one(box + "RUN --mount=type=bind,source=.,target=/m,bind-propagation=shared true\n"),
			fails: "bind-propagation"},
		{name: "CVE-2024-9675 id of a cache mount leads up", files: one(box +
			"RUN --mount=type=cache,id=../../../../../../../../CANARY,target=/c echo x >/c/secret; ls -a /c >/seen\n" +
			"RUN --mount=type=cache,id=/../../x/..,target=/c cat /c/secret || true\n")},
		{name: "CVE-2025-4953 writes to a bind of the context", files: map[string]string{
			"Dockerfile": box +
				"RUN --mount=type=bind,target=/m,rw echo x >/m/kept && rm -f /m/Dockerfile && echo y >/m/new\n" +
				"RUN --mount=type=bind,target=/m ! test -e /m/new && grep mine /m/kept\n",
			"kept": "mine\n"}},
		{name: "CVE-2021-30465 mountpoint behind links",
			files: one(box + "RUN ln -s / /r && ln -s ../../../.. /up && ln -s CANARY /out\n" +
				"RUN --mount=type=tmpfs,target=/r/up/out/deep --mount=type=tmpfs,target=/out/d " +
				"echo x >/out/d/inner; ls /out >/seen\n")},
	}
}

// hostileDockerfiles returns Dockerfiles that request what they may not have, or name what is outside of a stage.
func hostileDockerfiles() []hostile {
	return []hostile{
		{name: "CVE-2024-23653 insecure without permission", files: one(box + "RUN --security=insecure true\n"),
			fails: "security.insecure"},
		{name: "CVE-2024-23653 host network without permission", files: one(box + "RUN --network=host true\n"),
			fails: "network.host"},
		{name: "CVE-2024-23653 host network of a target without permission", files: one(box + "RUN true\n"),
			target: `network = "host"`, fails: "network.host"},
		{name: "CVE-2023-26054 password in a URL",
			files: one(box + "ADD http://user:pass-of-user@127.0.0.1:1/x.tar /x\n"), fails: "127.0.0.1:1",
			absent: "pass-of-user"},
		{name: "CVE-2026-33747 frontend of its own", files: one("# syntax=REGISTRY/evil/frontend:1\n" + box),
			fails: "evil/frontend"},
		{name: "CVE-2024-21626 working directory of a descriptor", files: one(box +
			"WORKDIR /proc/self/fd/7\nRUN cat ../../../../../../CANARY/secret >/seen; " +
			"cat ../../../../../../../../../../CANARY/secret >>/seen; true\n"), fails: "/proc/self/fd/7"},
		{name: "CVE-2024-21626 working directory of the starter",
			files: one(box + "WORKDIR /proc/1/cwd/../../..\nRUN cat ./CANARY/secret >/seen 2>&1; pwd; true\n")},
		{name: "COPY from a link of a stage",
			files: one(stage + "RUN ln -s CANARY /link && ln -s CANARY/secret /f\n" + box +
				"COPY --from=s /f /x\n"), fails: "is not in"},
		{name: "COPY from below a link of a stage",
			files: one(stage + "RUN ln -s CANARY /link\n" + box +
				"COPY --from=s /link/secret /x\n"), fails: "is not in"},
		{name: "COPY to a link", files: map[string]string{"Dockerfile": box +
			"RUN ln -s CANARY /out && ln -s CANARY/secret /s && ln -s ../../../../../../../../../../CANARY /up\n" +
			"COPY evil /out/secret\nCOPY evil /s\nCOPY evil /up/d/inner\n" +
			"COPY evil ../../../../../../../../../../CANARY/secret\nADD evil /out/new\nWORKDIR /out/made\n",
			"evil": "evil"}},
		{name: "CVE-2024-24557 health check counts",
			files: one("FROM scratch\nHEALTHCHECK CMD /CANARY\nCOPY Dockerfile /\n")},
	}
}

// hostileBases returns bases whose layers or config lead to the host or are huge.
func hostileBases() []hostile {
	dev := func(name string, more ...tar.Header) hostile {
		return hostile{name: name, layers: [][]tar.Header{more}, files: one("FROM HOSTILE\nRUN true\n")}
	}
	proc := dev("CVE-2019-19921 CVE-2023-27561 proc is a link", layerLink("proc", "/CANARY"))
	proc.fails = "/proc"
	sys := dev("CVE-2025-52881 sys is a link", layerLink("sys", "/CANARY"))
	sys.fails = "/sys"
	device := dev("CVE-2025-31133 dev is a link", layerLink("dev", "CANARY"))
	device.fails = "/dev"
	null := dev("CVE-2025-31133 null is a link", layerLink("dev/null", "CANARY/secret"),
		layerLink("dev/zero", "/proc/sys/kernel/core_pattern"))
	null.files = one("FROM HOSTILE\nRUN echo x >/dev/null; cat /dev/null >/seen; test ! -L /dev/null\n")
	console := dev("CVE-2025-52565 console is a link", layerLink("dev/console", "CANARY/secret"),
		layerLink("dev/pts", "CANARY"), layerLink("dev/shm", "CANARY"), layerLink("dev/ptmx", "CANARY/secret"))
	console.files = one("FROM HOSTILE\n" +
		"RUN echo x >/dev/console; echo x >/dev/shm/f; cat /dev/console >/seen; ls /dev/shm >>/seen; true\n")
	return []hostile{
		proc, sys, device, null, console,
		{name: "CVE-2021-43816 CVE-2022-23648 volumes lead up", layers: [][]tar.Header{}, config: func(c *v1.Config) {
			c.Volumes = map[string]struct{}{"/../../../../../../../../CANARY": {}, "/proc/self/root": {}}
			c.WorkingDir = "/../../../../CANARY"
		}, files: one("FROM HOSTILE\nRUN ls -a . >/seen; cat secret >>/seen; true\n")},
		{name: "GHSA-72x6 GHSA-jpcc huge passwd",
			layers: [][]tar.Header{{layerFile("etc/passwd", strings.Repeat("x:x:1:1::/:/bin/sh\n", 600_000))}},
			files:  one("FROM HOSTILE\nUSER x\nRUN true\n"), fails: "/etc/passwd"},
		{name: "GHSA-72x6 huge group for an owner",
			layers: [][]tar.Header{{layerFile("etc/group", strings.Repeat("x:x:1:y\n", 1_500_000))}},
			files:  one("FROM HOSTILE\nCOPY --chown=root:x Dockerfile /\n"), fails: "/etc/group"},
		{name: "CVE-2024-9676 passwd is a link", layers: [][]tar.Header{{layerLink("etc/passwd", "CANARY/passwd")}},
			files: one("FROM HOSTILE\nUSER app\nRUN true\n"), fails: "app"},
		{name: "CVE-2024-9676 passwd is a pipe",
			layers: [][]tar.Header{{{Name: "etc/passwd", Typeflag: tar.TypeFifo, Mode: 0o644}}},
			files:  one("FROM HOSTILE\nUSER app\nRUN true\n"), fails: "/etc/passwd"},
		{name: "CVE-2024-9676 passwd is a device",
			layers: [][]tar.Header{{{Name: "etc/passwd", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 5,
				Mode: 0o644}}},
			files: one("FROM HOSTILE\nCOPY --chown=app Dockerfile /\n"), fails: "/etc/passwd"},
		{name: "resolv.conf and hosts are links",
			layers: [][]tar.Header{{layerLink("etc/resolv.conf", "CANARY/secret"),
				layerLink("etc/hosts", "../../../../../CANARY/new")}},
			files: one("FROM HOSTILE\nRUN cat /etc/resolv.conf /etc/hosts >/seen; echo x >>/etc/hosts; true\n")},
		{name: "CVE-2026-42574 CVE-2026-50163 file behind a link of a lower layer", layers: [][]tar.Header{
			{layerLink("a", "CANARY"), layerLink("b", "../../../../../../../../../../../..")},
			{layerFile("a/secret", "evil"), layerFile("b/CANARY/new", "evil")}},
			files: one("FROM HOSTILE\nRUN true\n")},
		{name: "CVE-2026-42574 file behind a link of the same layer",
			layers: [][]tar.Header{{layerLink("a", "CANARY"), layerFile("a/secret", "evil")}},
			files:  one("FROM HOSTILE\nRUN true\n")},
		{name: "CVE-2021-29136 hard link to the host", layers: [][]tar.Header{{hardLink("h", "/CANARY/secret")}},
			files: one("FROM HOSTILE\nRUN cat /h >/seen\n"), fails: "layer"},
		{name: "CVE-2021-29136 hard link through a link",
			layers: [][]tar.Header{{layerLink("a", "CANARY"), hardLink("h", "a/secret")}},
			files:  one("FROM HOSTILE\nRUN cat /h >/seen\n"), fails: "layer"},
		{name: "names that lead up", layers: [][]tar.Header{{layerFile("../../../../../../../../CANARY/new", "evil")}},
			files: one("FROM HOSTILE\nRUN true\n")},
		{name: "whiteout of the root", layers: [][]tar.Header{{layerFile(".wh...", "")}},
			files: one("FROM HOSTILE\nRUN true\n"), fails: "layer"},
	}
}

// hostileContexts returns contexts with links, pipes and devices.
func hostileContexts() []hostile {
	return []hostile{
		{name: "context with a link to a file", files: one(box + "COPY link /x\n"),
			setup: contextLink("CANARY/secret", "link"), fails: "is not in"},
		{name: "context with a link to a directory", files: one(box + "COPY link/ /x/\n"),
			setup: contextLink("CANARY", "link"), fails: "is not in"},
		{name: "context with a link that leads up", files: one(box + "COPY link/d/inner /x\n"),
			setup: contextLink("../../../../../../../../../../../..CANARY", "link"), fails: "is not in"},
		{name: "context with a link that is copied as such",
			files: one(box + "COPY . /x/\nRUN cat /x/link >/seen; true\n"),
			setup: contextLink("CANARY/secret", "link")},
		{name: "CVE-2018-15664 context that leads up",
			files: one(box + "COPY ../../../../../../../../../../CANARY/secret /x\n"), fails: "is not in"},
		{name: "bind of a link of the context",
			files: one(box + "RUN --mount=type=bind,source=link,target=/m cat /m/secret >/seen\n"),
			setup: contextLink("CANARY", "link"), fails: "link"},
		{name: "pipe in the context", files: one(box + "COPY . /x/\n"), setup: func(t *testing.T, dir, _ string) {
			if err := unix.Mkfifo(filepath.Join(dir, "pipe"), 0o644); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "ignore file is a device of the host", files: one(box + "COPY . /x/\n"),
			setup: contextLink("/dev/zero", ".dockerignore")},
	}
}

// contextArchive returns a setup that writes a.tar.gz to the context. CANARY stands for the canary in names and links.
func contextArchive(entries ...tar.Header) func(*testing.T, string, string) {
	return func(t *testing.T, dir, canary string) {
		var raw bytes.Buffer
		z := gzip.NewWriter(&raw)
		w := tar.NewWriter(z)
		for _, e := range entries {
			text := e.Uname
			e.Uname, e.Name = "", strings.ReplaceAll(e.Name, "CANARY", canary)
			e.Linkname = strings.ReplaceAll(e.Linkname, "CANARY", canary)
			if e.Typeflag == tar.TypeReg {
				e.Size = int64(len(text))
			}
			if err := w.WriteHeader(&e); err != nil {
				t.Fatal(err)
			}
			_, _ = w.Write([]byte(text))
		}
		_, _ = w.Close(), z.Close()
		if err := os.WriteFile(filepath.Join(dir, "a.tar.gz"), raw.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// hostileArchives returns archives whose entries lead to the host when ADD unpacks them.
func hostileArchives() []hostile {
	add := one(box + "ADD a.tar.gz /\n")
	return []hostile{
		{name: "CVE-2026-28406 archive leads up", files: add,
			setup: contextArchive(layerFile("../../../../../../../../../../CANARY/secret", "evil"))},
		{name: "CVE-2026-28406 archive with absolute names", files: add,
			setup: contextArchive(layerFile("CANARY/secret", "evil"), layerFile("//CANARY/new", "evil"))},
		{name: "CVE-2026-28406 archive behind its own link", files: one(box + "ADD a.tar.gz /x/\n"),
			setup: contextArchive(layerLink("l", "CANARY"), layerFile("l/secret", "evil"))},
		{name: "archive with a hard link to the host", files: one(box + "ADD a.tar.gz /x/\n"),
			setup: contextArchive(hardLink("h", "CANARY/secret")), fails: "h"},
		{name: "archive deletes the host", files: one(box + "ADD a.tar.gz /x/\n"),
			setup: contextArchive(layerFile("../../../../../CANARY/.wh.secret", ""), layerFile("CANARY/.wh.d", ""))},
		{name: "CVE-2019-14271 programs of the image unpack nothing",
			files: map[string]string{"Dockerfile": box + "ADD a.tar.gz /x/\n",
				"bin/gzip": "#!/bin/sh\necho evil >CANARY/new\n", "bin/unpigz": "#!/bin/sh\necho evil >CANARY/new\n",
				"bin/tar": "#!/bin/sh\necho evil >CANARY/new\n"},
			setup: contextArchive(layerFile("f", "text")), env: map[string]string{"PATH": "bin:" + os.Getenv("PATH")}},
	}
}

// hostileSteps returns steps that look for the host from inside of their sandbox.
func hostileSteps(t *testing.T) []hostile {
	t.Helper()
	address, abstract := listeners(t)
	step := func(name, script string) hostile {
		return hostile{name: name, files: one(box + "RUN <<EOF\n" + script + "\nEOF\n")}
	}
	listeningStep := step("CVE-2020-15257 abstract sockets and loopback",
		"! grep "+abstract+" /proc/net/unix\n! wget -T 2 -O /seen http://"+address+"/")
	environ := step("CVE-2021-3602 environment and descriptors",
		"! env | grep OF_THE_HOST\n"+
			"for f in /proc/1/fd/*; do case $f in */0|*/1|*/2|*/10) ;; "+
			"*) test ! -e $f || readlink $f | grep -v ^/proc/ || true ;; esac; done >/seen\n"+
			"test ! -s /seen")
	environ.env = map[string]string{"OF_THE_HOST": canaryText}
	return []hostile{
		listeningStep, environ,
		step("CVE-2022-2990 supplementary groups", `test "$(id -G)" = 0`),
		step("CVE-2019-5736 program of the starter",
			"ln -s /proc/self/exe /self; for p in /proc/self/exe /proc/1/exe; do (echo evil >$p) 2>/dev/null; done\n"+
				"printf '#!/proc/self/exe\\n' >/evil && chmod 755 /evil; /evil; true"),
		step("mount", "! mount -t tmpfs none /tmp\n! mount --bind / /tmp\n! mount -o remount,rw /proc/sys\n"+
			"! umount /proc\n! umount /etc/hosts"),
		step("kernel settings", "! sh -c 'echo x >/proc/sys/kernel/core_pattern'\n"+
			"! sh -c 'echo b >/proc/sysrq-trigger'\n! sh -c 'echo x >/sys/kernel/uevent_helper'\n"+
			"! sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'\ntest -z \"$(cat /proc/kcore 2>/dev/null | head -c 1)\""),
		step("control groups", "! mkdir /sys/fs/cgroup/evil\n! find /sys/fs/cgroup -name release_agent | grep ."),
		step("devices of the host", "for n in '8 0' '253 0' '254 0' '7 0' '1 1' '1 2' '10 237'; do rm -f /node; "+
			"mknod /node b $n 2>/dev/null || mknod /node c $n 2>/dev/null || continue; "+
			"! head -c 1 /node >/dev/null 2>&1 || exit 1; done; rm -f /node"),
		step("parents of the root", "cd /; cat ../../../../../../../CANARY/secret /proc/1/root/CANARY/secret "+
			"/proc/self/root/../CANARY/secret >/seen 2>/dev/null\n! test -s /seen"),
		step("processes of the host", "test $(ps | wc -l) -lt 8; kill -9 -1 2>/dev/null; true"),
		step("a daemon that stays", "(while true; do sleep 1000; done) >/dev/null 2>&1 &\ntrue"),
		step("chroot", "mkdir /j && cp /bin/busybox /j/ && cd / && true"),
		{name: "CVE-2024-11218 stages race on a cache mount",
			files: one("FROM REGISTRY/busybox:1 AS a\n" +
				"RUN --mount=type=cache,id=race,target=/c i=0; while [ $i -lt 300 ]; do " +
				"rm -rf /c/d; ln -s CANARY /c/d; rm -rf /c/d; mkdir /c/d; i=$((i+1)); done; touch /a\n" +
				"FROM REGISTRY/busybox:1 AS b\n" +
				"RUN --mount=type=cache,id=race,target=/c --mount=type=tmpfs,target=/c/d/e " +
				"touch /c/d/e/new; touch /b\n" + box + "COPY --from=a /a /\nCOPY --from=b /b /\n"),
			mayFail: "mount /c/d"},
	}
}
