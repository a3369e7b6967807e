package main

import (
	"context"
	"os"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	defaultSize = 1 << 30
	// mkfs.xfs makes nothing smaller than 300 MiB.
	smallestXfs = 304 << 20
	defaultFs   = "xfs" // can grow while mounted without CAP_SYS_RESOURCE, which ext4 cannot
)

func (*driver) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	answer := &csi.ControllerGetCapabilitiesResponse{}
	for _, capability := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
	} {
		answer.Capabilities = append(answer.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: capability}}})
	}
	return answer, nil
}

// misbehave does what the class's parameters ask for: `fail` with a text, or wait for `delay` first.
func misbehave(parameters map[string]string, delay string) error {
	if text := parameters["fail"]; text != "" {
		return status.Error(codes.Internal, text)
	}
	if text := parameters[delay]; text != "" {
		length, err := time.ParseDuration(text)
		if err != nil {
			return status.Errorf(codes.InvalidArgument, "%s: %v", delay, err)
		}
		time.Sleep(length)
	}
	return nil
}

func internal(err error) error {
	if err == nil {
		return nil
	}
	return status.Error(codes.Internal, err.Error())
}

// Parameters of the class: fs (xfs, ext4), createDelay, fail.
func (d *driver) CreateVolume(_ context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if have, err := d.store.load(volumes, r.Name); err == nil {
		return volumeAnswer(have, r), nil
	}
	if err := misbehave(r.Parameters, "createDelay"); err != nil {
		return nil, err
	}
	v := &record{ID: r.Name, Size: r.GetCapacityRange().GetRequiredBytes(), Fs: r.Parameters["fs"], Created: time.Now()}
	if v.Size == 0 {
		v.Size = defaultSize
	}
	if v.Fs == "" {
		v.Fs = defaultFs
	}
	if v.Fs == "xfs" {
		v.Size = max(v.Size, smallestXfs)
	}
	image := d.store.path(volumes, v.ID)
	if source := r.GetVolumeContentSource().GetSnapshot(); source != nil {
		s, err := d.store.load(snapshots, source.SnapshotId)
		if err != nil {
			return nil, status.Errorf(codes.NotFound, "no snapshot %s", source.SnapshotId)
		}
		if v.Size < s.Size {
			return nil, status.Errorf(codes.OutOfRange, "the snapshot needs %d bytes", s.Size)
		}
		v.Source, v.Fs = s.ID, s.Fs
		if err := copyImage(d.store.path(snapshots, s.ID), image); err != nil {
			return nil, internal(err)
		}
		if err := os.Truncate(image, v.Size); err != nil { // its file system grows when it is mounted
			return nil, internal(err)
		}
	} else if err := format(image, v); err != nil {
		return nil, internal(err)
	}
	return volumeAnswer(v, r), internal(d.store.save(volumes, v))
}

func format(image string, v *record) error {
	_ = os.Remove(image)
	file, err := os.Create(image)
	if err != nil {
		return err
	}
	if err := file.Truncate(v.Size); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return run("mkfs."+v.Fs, "-q", image)
}

func volumeAnswer(v *record, r *csi.CreateVolumeRequest) *csi.CreateVolumeResponse {
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{
		VolumeId: v.ID, CapacityBytes: v.Size, ContentSource: r.VolumeContentSource}}
}

func (d *driver) DeleteVolume(_ context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	unlock, err := d.store.lock()
	if err != nil {
		return nil, internal(err)
	}
	defer unlock()
	// A node that died without unmounting leaves its loop device behind.
	detach(d.store.path(volumes, r.VolumeId))
	return &csi.DeleteVolumeResponse{}, internal(d.store.remove(volumes, r.VolumeId))
}

func (*driver) ValidateVolumeCapabilities(_ context.Context, r *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeCapabilities: r.VolumeCapabilities}}, nil
}

// Parameters of the class: snapshotDelay, fail.
func (d *driver) CreateSnapshot(_ context.Context, r *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	if have, err := d.store.load(snapshots, r.Name); err == nil {
		if have.Source != r.SourceVolumeId {
			return nil, status.Errorf(codes.AlreadyExists, "%s is of volume %s", r.Name, have.Source)
		}
		return snapshotAnswer(have), nil
	}
	v, err := d.store.load(volumes, r.SourceVolumeId)
	if err != nil {
		return nil, status.Errorf(codes.NotFound, "no volume %s", r.SourceVolumeId)
	}
	if err := misbehave(r.Parameters, "snapshotDelay"); err != nil {
		return nil, err
	}
	// Locked: the volume is neither attached nor detached meanwhile.
	unlock, err := d.store.lock()
	if err != nil {
		return nil, internal(err)
	}
	defer unlock()
	s := &record{ID: r.Name, Source: v.ID, Fs: v.Fs, Created: time.Now()}
	err = d.store.whileFrozen(v, func() error {
		return copyImage(d.store.path(volumes, v.ID), d.store.path(snapshots, s.ID))
	})
	if err != nil {
		return nil, internal(err)
	}
	info, err := os.Stat(d.store.path(snapshots, s.ID)) // the volume may have grown since it was loaded
	if err != nil {
		return nil, internal(err)
	}
	s.Size = info.Size()
	return snapshotAnswer(s), internal(d.store.save(snapshots, s))
}

func snapshotAnswer(s *record) *csi.CreateSnapshotResponse {
	return &csi.CreateSnapshotResponse{Snapshot: &csi.Snapshot{
		SnapshotId: s.ID, SourceVolumeId: s.Source, SizeBytes: s.Size,
		CreationTime: timestamppb.New(s.Created), ReadyToUse: true}}
}

func (d *driver) DeleteSnapshot(_ context.Context, r *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	return &csi.DeleteSnapshotResponse{}, internal(d.store.remove(snapshots, r.SnapshotId))
}

func (d *driver) ControllerExpandVolume(_ context.Context, r *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	v, err := d.store.load(volumes, r.VolumeId)
	if err != nil {
		return nil, status.Errorf(codes.NotFound, "no volume %s", r.VolumeId)
	}
	if size := r.GetCapacityRange().GetRequiredBytes(); size > v.Size {
		if err := os.Truncate(d.store.path(volumes, v.ID), size); err != nil {
			return nil, internal(err)
		}
		v.Size = size
		if err := d.store.save(volumes, v); err != nil {
			return nil, internal(err)
		}
	}
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: v.Size, NodeExpansionRequired: true}, nil
}
