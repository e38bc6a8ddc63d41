"""Users with the least permissions that each role can work with.

An operator declares the topology (`gleitzeit topology apply`); workers, clients (our command line) and
foreign producers only check it (`amqp.declare = "check"`) or not even that.
"""

PASSWORD = "chaos"

# Role: what it may configure, write, read.
RABBITMQ = {
    # Broadcasts come over a queue that the server names, so it is declared and bound.
    "worker": (
        r"^amq\.gen.*$",
        r"^(amq\.default|amq\.gen.*|gleitzeit\.(submit|workflows|dead|control|events|replies|delay\..*))$",
        r"^(amq\.gen.*|gleitzeit\.(control|workflows|dead\.inbox|tasks\..*))$",
    ),
    "client": (r"^$", r"^gleitzeit\.(submit|workflows|delay\..*)$", r"^$"),
    "producer": (r"^$", r"^gleitzeit\.(tasks|workflows)$", r"^$"),
}

# What the scripts call counts as called by the user. With redis.wait_replicas also +wait.
_STEPS = (
    "+evalsha +script|load +get +getrange +strlen +set +mget +del +exists +pexpire +persist +publish"
    " +hget +hset +hsetnx +hmget +hdel +hexists +hgetall +hincrby +hlen +lrange +rpush +zadd +zrem +zrange +zpopmin"
    " +xadd +xrange +xdel"
)
REDIS = {
    # Also the client's: who submits leaves a record, and `run`, `watch` and `list` read.
    "worker": "~gleitzeit:* &gleitzeit:* -@all +@connection +info " + _STEPS,
    "client": "~gleitzeit:* &gleitzeit:* -@all +@connection +info +scan +subscribe +unsubscribe " + _STEPS,
    "producer": "~gleitzeit:* &gleitzeit:done:* -@all +@connection +get +mget +exists +subscribe +psubscribe",
}


def login(role):
    return "%s:%s" % (role, PASSWORD)


def redis_conf():
    return ["user %s on >%s %s" % (role, PASSWORD, rules) for role, rules in REDIS.items()]


def make_users(ctl):
    for role, permissions in RABBITMQ.items():
        ctl("add_user", role, PASSWORD)
        ctl("set_permissions", "-p", "/", role, *permissions)
