// System calls Node lacks, for the disk side.
#include "syscalls.h"

namespace netdrive {

napi_value RegisterSyscalls(napi_env env, napi_value exports) { return RegisterPlainSyscalls(env, exports); }

}  // namespace netdrive
