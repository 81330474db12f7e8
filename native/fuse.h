// The parts of the FUSE support, each registering its functions.
#pragma once

#include "addon.h"

namespace netdrive {

// fuse-mount.cc: mount, unmount, descriptor passing, groups of a process.
napi_value RegisterFuseMount(napi_env env, napi_value exports);
// fuse-device.cc: slots, reader threads, replies.
napi_value RegisterFuseDevice(napi_env env, napi_value exports);

}  // namespace netdrive
