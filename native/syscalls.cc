// System calls Node lacks, for the disk side.
#include "syscalls.h"

#include "disk.h"

namespace netdrive {

napi_value RegisterSyscalls(napi_env env, napi_value exports) {
  if (RegisterPlainSyscalls(env, exports) == nullptr) return nullptr;
  return RegisterDisk(env, exports);
}

}  // namespace netdrive
