// Sealing small messages under a key that stays.
#pragma once

#include <node_api.h>

namespace netdrive {

// exports.createSeal.
napi_value RegisterSeal(napi_env env, napi_value exports);

}  // namespace netdrive
