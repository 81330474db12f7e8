// The parts of the disk side's system calls.
#pragma once

#include "addon.h"

namespace netdrive {

// `exports.plain`: system calls as they are, for tests.
napi_value RegisterPlainSyscalls(napi_env env, napi_value exports);

}  // namespace netdrive
