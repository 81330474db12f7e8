// FUSE: what JavaScript cannot do itself. No opcode is known here.
#include "fuse.h"

namespace netdrive {

napi_value RegisterFuse(napi_env env, napi_value exports) {
  if (RegisterFuseMount(env, exports) == nullptr) return nullptr;
  return RegisterFuseDevice(env, exports);
}

}  // namespace netdrive
