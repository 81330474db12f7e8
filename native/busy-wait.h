// Waiting for the next event awake. See busy-wait.cc.
#pragma once

#include "addon.h"

namespace netdrive {

napi_value RegisterBusyWait(napi_env env, napi_value exports);

}  // namespace netdrive
