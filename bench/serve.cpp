#include "registration.hpp"
namespace bench { int serve() { return 0; } }
