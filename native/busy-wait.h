// Waiting for the next event awake. See busy-wait.cc.
#pragma once

#include <cstddef>

#include "addon.h"

namespace netdrive {

// Tells that so many bytes were received or are to be sent. On the JavaScript thread.
void CountTraffic(size_t bytes);

napi_value RegisterBusyWait(napi_env env, napi_value exports);

}  // namespace netdrive
