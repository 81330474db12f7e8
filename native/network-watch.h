// Hears from the kernel that this machine's network has changed. See network-watch.cc.
#pragma once

#include "addon.h"

namespace netdrive {

napi_value RegisterNetworkWatch(napi_env env, napi_value exports);

}  // namespace netdrive
