# RDS with pgvector behind RDS Proxy, where no database_url is given.

resource "aws_security_group" "functions" {
  count       = local.in_vpc ? 1 : 0
  name_prefix = "${var.name}-functions-"
  vpc_id      = var.vpc_id
}

resource "aws_vpc_security_group_egress_rule" "functions" {
  count             = local.in_vpc ? 1 : 0
  security_group_id = aws_security_group.functions[0].id
  ip_protocol       = "-1"
  cidr_ipv4         = "0.0.0.0/0"
}

resource "aws_security_group" "database" {
  count       = local.has_database ? 1 : 0
  name_prefix = "${var.name}-database-"
  vpc_id      = var.vpc_id
}

resource "aws_vpc_security_group_ingress_rule" "database" {
  for_each                     = local.has_database ? { functions = aws_security_group.functions[0].id, proxy = aws_security_group.database[0].id } : {}
  security_group_id            = aws_security_group.database[0].id
  referenced_security_group_id = each.value
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
}

resource "aws_vpc_security_group_egress_rule" "database" {
  count             = local.has_database ? 1 : 0
  security_group_id = aws_security_group.database[0].id
  ip_protocol       = "-1"
  cidr_ipv4         = "0.0.0.0/0"
}

resource "random_password" "database" {
  count   = local.has_database ? 1 : 0
  length  = 40
  special = false
}

resource "aws_secretsmanager_secret" "database" {
  count       = local.has_database ? 1 : 0
  name_prefix = "${var.name}-database-"
}

resource "aws_secretsmanager_secret_version" "database" {
  count         = local.has_database ? 1 : 0
  secret_id     = aws_secretsmanager_secret.database[0].id
  secret_string = jsonencode({ username = "quiver", password = random_password.database[0].result })
}

resource "aws_db_subnet_group" "this" {
  count       = local.has_database ? 1 : 0
  name_prefix = "${var.name}-"
  subnet_ids  = var.subnet_ids
}

resource "aws_db_instance" "this" {
  count                     = local.has_database ? 1 : 0
  identifier_prefix         = "${var.name}-"
  engine                    = "postgres"
  engine_version            = "17.6"
  instance_class            = "db.t4g.medium"
  allocated_storage         = 20
  max_allocated_storage     = 200
  storage_type              = "gp3"
  storage_encrypted         = true
  backup_retention_period   = 7
  db_name                   = "quiver"
  username                  = "quiver"
  password                  = random_password.database[0].result
  db_subnet_group_name      = aws_db_subnet_group.this[0].name
  vpc_security_group_ids    = [aws_security_group.database[0].id]
  publicly_accessible       = false
  deletion_protection       = true
  final_snapshot_identifier = "${var.name}-final"
}

resource "aws_iam_role" "proxy" {
  count = local.has_database ? 1 : 0
  name  = "${var.name}-proxy"
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Principal = { Service = "rds.amazonaws.com" }, Action = "sts:AssumeRole" }]
  })
}

resource "aws_iam_role_policy" "proxy" {
  count = local.has_database ? 1 : 0
  name  = "password"
  role  = aws_iam_role.proxy[0].id
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "secretsmanager:GetSecretValue", Resource = aws_secretsmanager_secret.database[0].arn }]
  })
}

resource "aws_db_proxy" "this" {
  count                  = local.has_database ? 1 : 0
  name                   = var.name
  engine_family          = "POSTGRESQL"
  require_tls            = true
  role_arn               = aws_iam_role.proxy[0].arn
  vpc_subnet_ids         = var.subnet_ids
  vpc_security_group_ids = [aws_security_group.database[0].id]

  auth {
    auth_scheme = "SECRETS"
    iam_auth    = "DISABLED"
    secret_arn  = aws_secretsmanager_secret.database[0].arn
  }
}

resource "aws_db_proxy_default_target_group" "this" {
  count         = local.has_database ? 1 : 0
  db_proxy_name = aws_db_proxy.this[0].name
}

resource "aws_db_proxy_target" "this" {
  count                  = local.has_database ? 1 : 0
  db_proxy_name          = aws_db_proxy.this[0].name
  target_group_name      = aws_db_proxy_default_target_group.this[0].name
  db_instance_identifier = aws_db_instance.this[0].identifier
}
