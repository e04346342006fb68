package embedded

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/solver/pb"
)

func TestEnvironment(t *testing.T) {
	for _, c := range []struct {
		name string
		meta *pb.Meta
		want []string
	}{
		{"defaults", &pb.Meta{}, []string{"S=1", "PATH=" + defaultPath, "HOME=/root"}},
		{"the image's own win", &pb.Meta{Env: []string{"PATH=/bin", "HOME=/h"}},
			[]string{"PATH=/bin", "HOME=/h", "S=1"}},
		{
			"proxies in both cases", &pb.Meta{Env: []string{"PATH=/bin", "HOME=/"},
				ProxyEnv: &pb.ProxyEnv{HttpProxy: "http://p"}},
			[]string{"PATH=/bin", "HOME=/", "HTTP_PROXY=http://p", "http_proxy=http://p", "S=1"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, environment(c.meta, []string{"S=1"}, "/root")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestHostsFile(t *testing.T) {
	meta := &pb.Meta{Hostname: "h", ExtraHosts: []*pb.HostIP{{Host: "db", IP: "10.0.0.1"}}}
	want := "127.0.0.1\tlocalhost h\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.1\tdb\n"
	if diff := cmp.Diff(want, string(hostsFile(meta))); diff != "" {
		t.Error(diff)
	}
}
