// System calls Node lacks, for the disk side.
#include "addon.h"

namespace netdrive {

napi_value RegisterSyscalls(napi_env, napi_value exports) { return exports; }

}  // namespace netdrive
