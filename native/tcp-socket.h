// Connected TCP sockets for JavaScript. No frame is known here.
#pragma once

#include "addon.h"

namespace netdrive {

napi_value RegisterTcpSocket(napi_env env, napi_value exports);

}  // namespace netdrive
