// Reading JavaScript arguments in the addon's functions.
//
// A wrong argument is a programmer's mistake in src/sys: `ok` becomes false, and Wrong() leaves a TypeError pending.
#pragma once

#include <cstring>
#include <string>

#include "addon.h"

namespace netdrive {

// A view of a Buffer's bytes; valid while the call runs, longer only if JavaScript keeps the Buffer.
struct Bytes {
  unsigned char* data = nullptr;
  size_t size = 0;
};

class Arguments {
 public:
  static constexpr size_t kMax = 10;

  Arguments(napi_env env, napi_callback_info info) : env_(env) {
    count_ = kMax;
    ok_ = napi_get_cb_info(env, info, &count_, values_, nullptr, nullptr) == napi_ok;
    if (count_ > kMax) count_ = kMax;
  }

  bool ok() const { return ok_; }
  size_t count() const { return count_; }
  napi_value value(size_t index) const { return index < count_ ? values_[index] : nullptr; }

  // An integer; exact within +-2^53.
  int64_t Integer(size_t index) {
    int64_t result = 0;
    if (index >= count_ || napi_get_value_int64(env_, values_[index], &result) != napi_ok) ok_ = false;
    return result;
  }
  uint32_t Unsigned(size_t index) { return static_cast<uint32_t>(Integer(index)); }
  int Int(size_t index) { return static_cast<int>(Integer(index)); }

  Bytes Buffer(size_t index) {
    Bytes bytes;
    bool is_buffer = false;
    if (index < count_ && napi_is_buffer(env_, values_[index], &is_buffer) == napi_ok && is_buffer) {
      void* data = nullptr;
      if (napi_get_buffer_info(env_, values_[index], &data, &bytes.size) != napi_ok) ok_ = false;
      bytes.data = static_cast<unsigned char*>(data);
    } else {
      ok_ = false;
    }
    return bytes;
  }

  // A path: a Buffer or a latin1 string. A NUL inside ends it, so it is refused.
  std::string Path(size_t index) {
    std::string path;
    napi_valuetype type = napi_undefined;
    if (index < count_) napi_typeof(env_, values_[index], &type);
    if (type == napi_string) {
      size_t size = 0;
      napi_get_value_string_latin1(env_, values_[index], nullptr, 0, &size);
      path.resize(size + 1);
      napi_get_value_string_latin1(env_, values_[index], path.data(), size + 1, &size);
      path.resize(size);
    } else {
      Bytes bytes = Buffer(index);
      path.assign(reinterpret_cast<char*>(bytes.data), bytes.size);
    }
    if (memchr(path.data(), 0, path.size()) != nullptr) {
      ok_ = false;
      path.clear();
    }
    return path;
  }

  napi_value Wrong() {
    napi_throw_type_error(env_, nullptr, "netdrive addon: wrong argument");
    return nullptr;
  }

 private:
  napi_env env_;
  napi_value values_[kMax];
  size_t count_ = 0;
  bool ok_ = true;
};

// A number for JavaScript: a result, or a negative errno.
inline napi_value Number(napi_env env, int64_t number) {
  napi_value value;
  NETDRIVE_CHECK(env, napi_create_int64(env, number, &value));
  return value;
}

}  // namespace netdrive
