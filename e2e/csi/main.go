// Command rdb-csi is a CSI driver for tests: a volume is one file with a file system in it, mounted through a loop device,
// so it has a real size limit, can grow, and a snapshot of it is one moment.
//
// All nodes of the test cluster share one kernel and one folder (the store), as kind's nodes do, so a volume can be mounted
// on any node. One program is controller and node plugin and registers itself with the kubelet:
//
//	store.go       what is kept about volumes and snapshots, beside their files
//	device.go      loop devices, mounts, freezing, copying
//	controller.go  creating, deleting, copying, growing
//	node.go        mounting, and growing what is mounted
//
// Not for real data: whoever reads the store folder reads every volume.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const driverName = "csi.test.replicateddb.io"

type driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer
	store store
	node  string
}

func (*driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: driverName, VendorVersion: "0.1.0"}, nil
}

func (*driver) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{
		{Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{
			Type: csi.PluginCapability_Service_CONTROLLER_SERVICE}}},
		{Type: &csi.PluginCapability_VolumeExpansion_{VolumeExpansion: &csi.PluginCapability_VolumeExpansion{
			Type: csi.PluginCapability_VolumeExpansion_ONLINE}}},
	}}, nil
}

func (*driver) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}

// registrar tells the kubelet where the node plugin listens.
type registrar struct {
	registration.UnimplementedRegistrationServer
	socket string
}

func (r *registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type: registration.CSIPlugin, Name: driverName, Endpoint: r.socket, SupportedVersions: []string{"1.0.0"},
	}, nil
}

func (r *registrar) NotifyRegistrationStatus(_ context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if !s.PluginRegistered {
		log.Fatalf("the kubelet refused the plugin: %s", s.Error) // started again, it tries again
	}
	return &registration.RegistrationStatusResponse{}, nil
}

// logged writes one line per call, but for the probes that come all the time.
func logged(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	start := time.Now()
	answer, err := handler(ctx, request)
	call := info.FullMethod[strings.LastIndex(info.FullMethod, "/")+1:]
	if call != "Probe" && call != "NodeGetCapabilities" && call != "NodeGetVolumeStats" {
		log.Printf("%s %s %v", call, time.Since(start).Round(time.Millisecond), err)
	}
	return answer, err
}

func serve(socket string, register func(*grpc.Server)) {
	_ = os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(logged))
	register(server)
	log.Fatal(server.Serve(listener))
}

func main() {
	endpoint := flag.String("endpoint", "/csi/csi.sock", "socket to serve on")
	folder := flag.String("store", "/var/lib/rdb-csi", "folder with volumes and snapshots, shared by all nodes")
	registrations := flag.String("registration-dir", "", "node plugin: register with the kubelet here")
	kubelet := flag.String("kubelet-socket", "/var/lib/kubelet/plugins/"+driverName+"/csi.sock", "the socket as the kubelet sees it")
	node := flag.String("node", os.Getenv("NODE"), "name of this node")
	flag.Parse()

	store, err := openStore(*folder)
	if err != nil {
		log.Fatal(err)
	}
	d := &driver{store: store, node: *node}
	if *registrations == "" {
		d.thawLeftovers()
	} else {
		go serve(filepath.Join(*registrations, driverName+"-reg.sock"), func(s *grpc.Server) {
			registration.RegisterRegistrationServer(s, &registrar{socket: *kubelet})
		})
	}
	serve(*endpoint, func(s *grpc.Server) {
		csi.RegisterIdentityServer(s, d)
		csi.RegisterControllerServer(s, d)
		csi.RegisterNodeServer(s, d)
	})
}
