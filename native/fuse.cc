// Mounting, the reader threads of /dev/fuse and replies.
#include "addon.h"

namespace netdrive {

napi_value RegisterFuse(napi_env, napi_value exports) { return exports; }

}  // namespace netdrive
