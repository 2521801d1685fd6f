#include "registration.hpp"
namespace bench { void register_rows() {} }
