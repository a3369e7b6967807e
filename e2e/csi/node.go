package main

import (
	"context"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func (d *driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: d.node}, nil
}

func (*driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	answer := &csi.NodeGetCapabilitiesResponse{}
	for _, capability := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
	} {
		answer.Capabilities = append(answer.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: capability}}})
	}
	return answer, nil
}

func (d *driver) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	v, err := d.store.load(volumes, r.VolumeId)
	if err != nil {
		return nil, status.Errorf(codes.NotFound, "no volume %s", r.VolumeId)
	}
	unlock, err := d.store.lock()
	if err != nil {
		return nil, internal(err)
	}
	defer unlock()
	if mountedAt(r.TargetPath) {
		return &csi.NodePublishVolumeResponse{}, nil
	}
	if err := os.MkdirAll(r.TargetPath, 0o750); err != nil {
		return nil, internal(err)
	}
	device, err := attach(d.store.path(volumes, v.ID))
	if err != nil {
		return nil, internal(err)
	}
	if err := mountDevice(device, v.Fs, r.TargetPath); err != nil {
		return nil, internal(err)
	}
	if v.Source != "" { // may be larger than its snapshot
		err = growFs(device, v.Fs, r.TargetPath)
	}
	return &csi.NodePublishVolumeResponse{}, internal(err)
}

func (d *driver) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	unlock, err := d.store.lock()
	if err != nil {
		return nil, internal(err)
	}
	defer unlock()
	if mountedAt(r.TargetPath) {
		if err := unix.Unmount(r.TargetPath, 0); err != nil {
			return nil, internal(err)
		}
		detach(d.store.path(volumes, r.VolumeId))
	}
	if err := os.Remove(r.TargetPath); err != nil && !os.IsNotExist(err) {
		return nil, internal(err)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

func (d *driver) NodeExpandVolume(_ context.Context, r *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	v, err := d.store.load(volumes, r.VolumeId)
	if err != nil {
		return nil, status.Errorf(codes.NotFound, "no volume %s", r.VolumeId)
	}
	device, found := attached(d.store.path(volumes, v.ID))
	if !found {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is not mounted", v.ID)
	}
	if err := makeNode(device); err != nil {
		return nil, internal(err)
	}
	if err := growFs(device, v.Fs, r.VolumePath); err != nil {
		return nil, internal(err)
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: v.Size}, nil
}

func (*driver) NodeGetVolumeStats(_ context.Context, r *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(r.VolumePath, &s); err != nil {
		return nil, status.Error(codes.NotFound, err.Error())
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{{
		Unit:      csi.VolumeUsage_BYTES,
		Total:     int64(s.Blocks) * s.Bsize,
		Available: int64(s.Bavail) * s.Bsize,
		Used:      int64(s.Blocks-s.Bfree) * s.Bsize,
	}}}, nil
}
